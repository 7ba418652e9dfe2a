"""Which problems a run really has: noted while it runs, tuned for afterwards.

Stands beside `tuning`.  Invariant: noting changes no choice.

    with collect_shapes(Path("shapes.json")):
        train()
    # then: iopipe tune kernels --shapes shapes.json
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iopipe.errors import DataError, PipelineError
from iopipe.kernels import tuning
from iopipe.kernels.configs import Kernel, Problem
from iopipe.kernels.store import write_json

_SCHEMA = 1
_collecting = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A problem of a kernel, and how many launches had it."""

    kernel: str
    problem: Problem
    num_launches: int


@contextmanager
def collect_shapes(path: Path) -> Iterator[None]:
    """Note every problem that kernels resolve meanwhile, in all threads; written at the end,
    also after an error.

    A graph, captured or compiled, resolves when it is made, not when it runs.  Raises
    PipelineError where shapes are being collected already.
    """
    if not _collecting.acquire(blocking=False):
        raise PipelineError(f"shapes are being collected already: collect {path} afterwards")
    counts: Counter[tuple[object, ...]] = Counter()
    lock = threading.Lock()

    def note(kernel: Kernel, problem: Problem) -> None:
        sizes = ((name, int(size)) for name, size in problem.shape.items())
        with lock:
            counts[kernel.name, problem.dtypes, tuple(sizes)] += 1

    tuning.observe(note)
    try:
        yield
    finally:
        tuning.observe(None)
        _collecting.release()
        write_json(path, {"schema": _SCHEMA, "problems": _plain(counts)})


def read_shapes(path: Path) -> list[Seen]:
    """What was noted, most launches first; raises DataError for another kind of file."""
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, this version reads {_SCHEMA}")
        return [_seen(row) for row in content["problems"]]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is not a file of collect_shapes: {error!r}") from error


def _plain(counts: Counter[Any]) -> list[dict[str, Any]]:
    return [
        {"kernel": name, "dtypes": list(dtypes), "shape": dict(shape), "num_launches": count}
        for (name, dtypes, shape), count in counts.most_common()
    ]


def _seen(row: Any) -> Seen:
    shape = {str(name): int(size) for name, size in dict(row["shape"]).items()}
    if min(shape.values(), default=0) < 0:
        raise ValueError(f"a size below 0 in {shape}")
    return Seen(
        kernel=str(row["kernel"]),
        problem=Problem(dtypes=tuple(str(name) for name in row["dtypes"]), shape=shape),
        num_launches=int(row["num_launches"]),
    )

"""Tuned configurations as files: DIRECTORY/<gpu>/<kernel>.json.

Stands between `tuning`, which reads, and the tuner, which writes.  Invariant: a file is
replaced as a whole or not at all, and what is read has been checked value by value; nothing
in it is ever executed.

    {"schema": 1, "kernel": "ragged_pad",
     "gpu": {"name": "NVIDIA H200", "sm": 90, "num_multiprocessors": 132, "l2_bytes": 62914560},
     "entries": [{"source": "3f0c...", "triton": "3.6", "dtypes": ["int64"],
                  "shape": {"rows": 4096, "words": 16384},
                  "config": {"blocks": {"rows": 1, "words": 512}, "num_warps": 4, "num_stages": 1},
                  "measured": {...}}]}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iopipe.errors import DataError
from iopipe.kernels.configs import Config, Problem
from iopipe.kernels.gpus import Gpu

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The configuration of one bucket of problems."""

    source: str
    """The kernel's fingerprint when it was tuned."""
    triton: str
    """The minor version: '3.6'."""
    problem: Problem
    """Bucketed."""
    config: Config
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What the tuner saw; nothing is decided by it."""

    @property
    def key(self) -> tuple[object, ...]:
        shape = sorted(self.problem.shape.items())
        return (self.source, self.triton, self.problem.dtypes, *shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The entries of one kernel on one GPU."""

    kernel: str
    gpu: Gpu
    entries: tuple[Entry, ...]


def read_table(path: Path) -> Table | None:
    """The table, or None where there is no such file; raises DataError for a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        return _table(content)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a table of configurations: {error!r}") from error


def write_table(path: Path, table: Table) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    content = {
        "schema": SCHEMA,
        "kernel": table.kernel,
        "gpu": dataclasses.asdict(table.gpu),
        "entries": [_plain(entry) for entry in table.entries],
    }
    write_json(path, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file as a whole, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def merged(table: Table | None, new: Table) -> Table:
    """`new` over `table`: same keys are replaced, entries of another source go."""
    sources = {entry.source for entry in new.entries}
    kept = {entry.key: entry for entry in (table.entries if table else ())}
    entries = {key: entry for key, entry in kept.items() if entry.source in sources}
    entries |= {entry.key: entry for entry in new.entries}
    return dataclasses.replace(new, entries=tuple(entries.values()))


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "source": entry.source,
        "triton": entry.triton,
        "dtypes": list(entry.problem.dtypes),
        "shape": dict(entry.problem.shape),
        "config": plain_config(entry.config),
        "measured": dict(entry.measured),
    }


def plain_config(config: Config) -> dict[str, Any]:
    """A configuration as JSON has it."""
    return {
        "blocks": dict(config.blocks),
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


def _table(content: Any) -> Table:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']!r}, this version reads {SCHEMA}")
    gpu = content["gpu"]
    sizes = ("sm", "num_multiprocessors", "l2_bytes")
    return Table(
        kernel=_word(content["kernel"]),
        gpu=Gpu(name=_word(gpu["name"]), **{name: _number(gpu[name]) for name in sizes}),
        entries=tuple(_entry(entry) for entry in _list(content["entries"])),
    )


def _entry(content: Any) -> Entry:
    config = content["config"]
    dtypes = tuple(_word(dtype) for dtype in _list(content["dtypes"]))
    return Entry(
        source=_word(content["source"]),
        triton=_word(content["triton"]),
        problem=Problem(dtypes=dtypes, shape=_numbers(content["shape"])),
        config=Config(
            blocks=_numbers(config["blocks"]),
            num_warps=_number(config["num_warps"]),
            num_stages=_number(config["num_stages"]),
        ),
        measured=dict(content.get("measured", {})),
    )


def _numbers(content: Any) -> dict[str, int]:
    return {_word(name): _number(value) for name, value in dict(content).items()}


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a number, 0 or more, belongs")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} where a word belongs")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} where a list belongs")
    return value

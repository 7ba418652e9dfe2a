"""`--quick`: one sentence in 30 seconds: what this storage can feed, and how to read it.

Stands between the command and `sweep`.  Invariant: the sentence names the state of the page cache
and settings that were measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from iopipe.bench.storage.backends import backends_for
from iopipe.bench.storage.jobs import CacheState, Grid
from iopipe.bench.storage.results import content_of
from iopipe.bench.storage.surroundings import surroundings
from iopipe.bench.storage.sweep import Effort, Findings, sweep
from iopipe.bench.storage.table import jobs_of, median_of
from iopipe.bench.storage.targets import Target, target_of
from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.readers.open import open_source

_EFFORT = Effort(seconds=0.8, repeats=2, budget_seconds=22.0)
_DEPTHS = (4, 16, 64)
_ALIKE = 0.95
"""A backend this close to the fastest is as good; then the default is named."""
_SETTING: Mapping[str, str] = {
    "posix": "num_threads",
    "direct": "num_threads",
    "uring": "queue_depth",
    "objects": "concurrency",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    sentence: str
    samples_per_second: float
    sample_bytes: float
    backend: str
    queue_depth: int
    content: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            **self.content,
            "answer": self.sentence,
            "samples_per_second": self.samples_per_second,
            "sample_bytes": self.sample_bytes,
        }


def quick(names: Sequence[str], *, sample_bytes: int | None, effort: Effort = _EFFORT) -> Answer:
    """Read samples of the dataset at random, as a full shuffle does, in every way there is."""
    with ExitStack() as stack:
        target, mean_bytes = _dataset(stack, names, sample_bytes)
        # Reads of whole pages, which every backend can do.
        block = max(4096, round(mean_bytes / 4096) * 4096)
        block = min(block, max(size for _, size in target.files))
        backends = [one for one in backends_for(target) if one not in ("mapped", "gds")]
        grid = Grid(
            backends=backends,
            block_bytes=(block,),
            queue_depths=_DEPTHS,
            accesses=("random",),
            caches=_cache_of(target),
        )
        jobs = grid.jobs(in_memory=target.in_memory)
        # io_uring through the page cache is no faster than preadv, and the time is short.
        jobs = [job for job in jobs if job.backend != "uring" or job.direct]
        findings = Findings()
        sweep(
            target,
            jobs,
            effort,
            findings=findings,
            on_row=lambda row: print(f"{row.job}: {row.gbps:.3f} GB/s", file=sys.stderr),
        )
        if not findings.rows:
            reasons = "; ".join(f"{one.what}: {one.reason}" for one in findings.skipped)
            raise StorageError(f"nothing could be measured: {reasons}")
        content = content_of(
            findings.rows,
            findings.skipped,
            environment=surroundings(target),
            command="iopipe bench storage --quick PATH_OR_URL",
        )
    return _answer(content, target.name.partition("?")[0], mean_bytes)


def _cache_of(target: Target) -> tuple[CacheState, ...]:
    return ("warm",) if target.in_memory else ("cold",)


def _dataset(
    stack: ExitStack, names: Sequence[str], sample_bytes: int | None
) -> tuple[Target, float]:
    """Its files as one target, and the mean bytes of a sample."""
    if sample_bytes is not None:
        targets = [stack.enter_context(target_of(n, size_bytes=0, makes=False)) for n in names]
        return _joined(names, targets), float(sample_bytes)
    try:
        source = open_source(list(names) if len(names) > 1 else names[0])
    except (DataError, StorageError, PipelineError) as error:
        raise PipelineError(
            f"no dataset that iopipe can open ({error}); give --sample-bytes SIZE to read "
            "the files as they are"
        ) from error
    targets = [
        stack.enter_context(target_of(one, size_bytes=0, makes=False)) for one in source.shards
    ]
    joined = _joined(names, targets)
    return joined, joined.num_bytes / max(1, len(source))


def _joined(names: Sequence[str], targets: Sequence[Target]) -> Target:
    if len({target.is_local for target in targets}) > 1:
        raise PipelineError("local files and URLs do not go together: ask for one after the other")
    return Target(
        name=" ".join(names),
        files=tuple(file for target in targets for file in target.files),
        is_local=targets[0].is_local,
    )


def _answer(content: dict[str, Any], name: str, mean_bytes: float) -> Answer:
    found = {
        (runs[0]["backend"], runs[0]["queue_depth"]): median_of(runs, "gbps")
        for runs in jobs_of(content["rows"]).values()
    }
    backend, depth = _choose(found)
    gbps = found[backend, depth]
    rate = gbps * 1e9 / mean_bytes
    state = {"warm": "from memory", "remote": "over the network"}.get(
        content["rows"][0]["cache"], "from a cold page cache"
    )
    setting = f" and {_SETTING[backend]}={depth}" if backend in _SETTING else ""
    prefer = f"prefer={backend!r}{setting}" if backend != "auto" else "what open_store picks"
    sentence = (
        f"{name} can feed {rate:,.0f} samples/s of {mean_bytes / 1e3:,.1f} kB "
        f"({gbps:.2f} GB/s, random reads {state}): use {prefer}."
    )
    return Answer(
        sentence=sentence,
        samples_per_second=rate,
        sample_bytes=mean_bytes,
        backend=backend,
        queue_depth=depth,
        content=content,
    )


def _choose(found: Mapping[tuple[str, int], float]) -> tuple[str, int]:
    """The fastest; of those as good, the default backend, then the least queue depth."""
    best = max(found.values())
    good = [key for key, gbps in found.items() if gbps >= _ALIKE * best]
    return min(good, key=lambda key: (key[0] != "posix", key[1]))

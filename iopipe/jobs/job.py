"""A sharding job from end to end: plan, run, commit.

Stands over everything in this room.  Invariant: the manifest is written last and is the
commit point; before it, any number of starts and kills leads to the same bytes.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, ErrorBudgetExceeded, PipelineError
from iopipe.jobs import dedup, external
from iopipe.jobs.destination import Destination
from iopipe.jobs.inline import InlineEngine
from iopipe.jobs.ledger import FOLDER, Ledger
from iopipe.jobs.local import LocalEngine
from iopipe.jobs.options import JOB_VERSION, ShardOptions
from iopipe.jobs.plan import Plan, make_plan
from iopipe.jobs.reading import Job, Reader
from iopipe.jobs.selection import write_selections
from iopipe.jobs.task import TaskResult
from iopipe.jobs.upload import mapped_errors
from iopipe.jobs.work import Engine, Item
from iopipe.plan import mean_sample_bytes
from iopipe.protocols import Source
from iopipe.readers import WriteOptions, write_arrow
from iopipe.readers.formats import find_format
from iopipe.readers.manifest import NAME, Manifest, write_manifest
from iopipe.readers.open import Paths

EngineName = Literal["local", "ray"]
_RUN_BYTES = 256 << 20
_SYNC_SECONDS = 5.0
_BRIEF_SAMPLES, _BRIEF_BYTES = 100_000, 8 << 30
"""A job of so much for each worker process, all times their number, is copied by one process
before they, with 0.3 s of imports each, have gained anything."""
_REJECTED = "rejected.arrow"
_REJECTED_TYPES = {"offset": pa.int64()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    num_done: int
    num_tasks: int
    num_samples: int
    """Input samples that were worked on, this start and earlier ones together."""
    num_bytes: int
    """Written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What a job did."""

    num_shards: int
    num_samples: int
    """Written."""
    num_bytes: int
    num_rejected: int
    seconds: float
    """Of this start."""


def shard(
    source: Paths,
    destination: str | os.PathLike[str],
    options: ShardOptions | None = None,
    *,
    engine: EngineName = "local",
    num_workers: int | None = None,
    ray_address: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> JobReport:
    """Write the samples of `source` as shards below `destination`.

    `source` is what `open_source` takes, `destination` a local folder or a URL that fsspec
    knows.  Killed at any instant and started again with the same options, it goes on where
    it was; other options are a `StateError` that names the difference.  With
    `on_error='skip'` samples that cannot be read, transformed or written are listed in
    `rejected.arrow` beside the output.
    """
    begun = time.monotonic()
    chosen = options or ShardOptions()
    _check(chosen)
    num_processes = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
    if num_processes < 1:
        raise PipelineError(f"num_workers is {num_processes}; give 1 or more")
    target = Destination(destination)
    with (
        target.opened(),
        closing(
            _engine(engine, num_processes, ray_address, is_early=bool(chosen.transforms))
        ) as running,
        closing(Reader(_job(_as_paths(source), target.folder, target.url, chosen))) as reader,
    ):
        num_local = num_processes if engine == "local" else 0
        run = _Run(reader, target, running, num_local=num_local)
        results = run.results(on_progress)
        run.commit(results)
    entries = [result.entry for result in results if result.entry is not None]
    return JobReport(
        num_shards=len(entries),
        num_samples=sum(entry.num_samples for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        num_rejected=sum(len(result.rejected) for result in results) + len(run.source.faults),
        seconds=time.monotonic() - begun,
    )


def plan_shards(source: Paths, options: ShardOptions | None = None) -> Plan:
    """What `shard` would do, without writing anything: which input goes to which shard.

    Splits and duplicates depend on the samples themselves; the sizes of their outputs are
    expected ones here.
    """
    chosen = options or ShardOptions()
    with closing(Reader(_job(_as_paths(source), Path("."), None, chosen))) as reader:
        num_samples, sample_bytes = len(reader.source), mean_sample_bytes(reader.source)
    sizes = [round(share * num_samples) for _, share in chosen.splits] or [num_samples]
    return make_plan(chosen, sample_bytes=sample_bytes, split_sizes=sizes)


class _Run:
    """One start of a job."""

    def __init__(
        self, reader: Reader, target: Destination, engine: Engine, *, num_local: int
    ) -> None:
        """`num_local` is how many processes of this machine the engine has."""
        self._target = target
        self._engine = engine
        self._num_local = num_local
        self._reader = reader
        self._job = reader.job
        self._options = reader.job.options
        self.source: Source = self._reader.source
        self._sample_bytes = mean_sample_bytes(self.source)
        self._ledger = Ledger(target.folder)
        for name in ("job.json", "done.jsonl"):
            target.fetch(f"{FOLDER}/{name}")
        self._ledger.begin(self._identity())
        target.store(f"{FOLDER}/job.json")

    def results(self, on_progress: Callable[[Progress], None]) -> list[TaskResult]:
        """The results of all tasks; runs those that are not done."""
        self._select()
        plan = self._job.plan
        done = {result.number: result for result in self._ledger.results()}
        todo = [number for number in range(plan.num_tasks) if number not in done]
        if todo and self._is_external():
            self._run_externally()
        progress = _Counter(plan.num_tasks, done.values(), on_progress)
        num_rejected = len(self.source.faults) + sum(len(r.rejected) for r in done.values())
        self._check_budget(num_rejected)
        synced = time.monotonic()
        items: Iterator[Item] = (("shard", number, 0, 0) for number in todo)
        try:
            for result in self._engine_of_shards().run(self._job, items):
                self._ledger.append(result)
                done[result.number] = result
                progress.add(result)
                num_rejected += len(result.rejected)
                self._check_budget(num_rejected)
                if time.monotonic() - synced > _SYNC_SECONDS:
                    self._target.store(f"{FOLDER}/done.jsonl")
                    synced = time.monotonic()
        finally:
            if (self._ledger.folder / "done.jsonl").exists():
                self._target.store(f"{FOLDER}/done.jsonl")
        return [done[number] for number in range(plan.num_tasks)]

    def commit(self, results: Sequence[TaskResult]) -> None:
        """Write the list of rejected samples, then the manifests."""
        with mapped_errors(self._target.name):
            self._commit(results)

    def _commit(self, results: Sequence[TaskResult]) -> None:
        self._write_rejected(results)
        plan, first = self._job.plan, 0
        for output in plan.outputs:
            last = first + plan.num_shards(output)
            written = [r for r in results[first:last] if r.entry is not None]
            columns = written[0].columns if written else self.source.columns
            for result in written:
                if set(result.columns) != set(columns):
                    raise DataError(
                        f"its samples have fields {list(result.columns)}, those of other shards "
                        f"{list(columns)}; make the transform give the same fields for all",
                        shard=result.entry.path if result.entry else None,
                    )
            folder = self._target.folder / output.folder
            folder.mkdir(parents=True, exist_ok=True)
            entries = tuple(result.entry for result in written if result.entry is not None)
            manifest = Manifest(format=self._options.format, columns=columns, shards=entries)
            write_manifest(folder, manifest)
            self._target.store(os.path.join(output.folder, NAME))
            first = last
        for left in self._ledger.folder.glob("*-*"):  # runs, hashes, selections
            left.unlink()

    # ---- passes before the shards ----------------------------------------------------

    def _select(self) -> None:
        """Settle which samples go to which output, and with that the plan."""
        options = self._options
        selected: list[tuple[str | None, int]] = [(None, len(self.source))]
        if options.splits or options.dedup:
            left_out = self._duplicates() if options.dedup else np.empty(0, np.int64)
            shares = [share for _, share in options.splits]
            with mapped_errors(self._target.name):
                found = write_selections(
                    self.source, self._reader.store, shares, left_out, self._ledger.folder
                )
            selected = [(path, count) for path, count in found]
        plan = make_plan(
            options,
            sample_bytes=self._sample_bytes,
            split_sizes=[count for _, count in selected],
        )
        paths = tuple(path for path, _ in selected) * options.copies
        self._job = replace(self._job, plan=plan, selections=paths)

    def _duplicates(self) -> Any:
        size = self._samples_per_run()
        runs = range(-(-len(self.source) // size))
        for _ in self._engine.run(self._job, (("hash", run, 0, size) for run in runs)):
            pass
        return dedup.duplicates([dedup.hashes_path(self._job, run) for run in runs])

    def _is_external(self) -> bool:
        options = self._options
        if options.shuffle_seed is None or options.shuffle_method == "direct":
            return False
        if options.shuffle_method == "external":
            return True
        is_small = self._sample_bytes * len(self.source) <= _RUN_BYTES
        is_local = self._reader.store.local_path(self.source.shards[0]) is not None
        return not (is_small or is_local)

    def _engine_of_shards(self) -> Engine:
        """This process itself where nothing but copying is to be done, and not much."""
        work = len(self.source) * self._options.copies * self._num_local
        is_brief = work <= _BRIEF_SAMPLES and work * self._sample_bytes <= _BRIEF_BYTES
        is_copying = not (self._options.transforms or self._job.is_external)
        if not (self._num_local and is_brief and is_copying):
            return self._engine
        return InlineEngine(self._reader, is_behind=self._num_local > 1)

    def _run_externally(self) -> None:
        size = self._samples_per_run()
        items: Iterator[Item] = (
            ("run", run, number, size)
            for number, output in enumerate(self._job.plan.outputs)
            for run in range(external.num_runs(output, size))
        )
        for _ in self._engine.run(self._job, items):
            pass
        self._job = replace(self._job, is_external=True)

    def _samples_per_run(self) -> int:
        return max(1, int(_RUN_BYTES / self._sample_bytes))

    def _check_budget(self, num_rejected: int) -> None:
        if num_rejected > self._options.max_errors:
            raise ErrorBudgetExceeded(
                f"{num_rejected} samples were rejected, allowed are {self._options.max_errors}; "
                "what is done stays done: raise max_errors and start again, or mend the source"
            )

    def _identity(self) -> dict[str, Any]:
        return {
            "job_version": JOB_VERSION,
            "source": self.source.digest,
            "num_samples": len(self.source),
            **self._options.as_dict(),
        }

    def _write_rejected(self, results: Sequence[TaskResult]) -> None:
        rows = [
            {"output": "", "key": f.key, "shard": f.shard, "offset": f.offset, "reason": f.reason}
            for f in self.source.faults
        ]
        rows += [
            {
                "output": self._job.plan.task(result.number).output.folder,
                "key": lost.key,
                "shard": lost.shard,
                "offset": lost.offset,
                "reason": lost.reason,
            }
            for result in results
            for lost in result.rejected
        ]
        if rows:
            schema = pa.schema({name: _REJECTED_TYPES.get(name, pa.string()) for name in rows[0]})
            write_arrow(self._target.folder / _REJECTED, rows, schema=schema)
            self._target.store(_REJECTED)


class _Counter:
    """Sums up results for whoever watches."""

    def __init__(
        self,
        num_tasks: int,
        done: Iterable[TaskResult],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._on_progress = on_progress
        self._now = Progress(num_done=0, num_tasks=num_tasks, num_samples=0, num_bytes=0)
        for result in done:
            self._count(result)
        on_progress(self._now)

    def add(self, result: TaskResult) -> None:
        self._count(result)
        self._on_progress(self._now)

    def _count(self, result: TaskResult) -> None:
        now = self._now
        self._now = replace(
            now,
            num_done=now.num_done + 1,
            num_samples=now.num_samples + result.num_read,
            num_bytes=now.num_bytes + result.num_bytes,
        )


def _check(options: ShardOptions) -> None:
    """Refuse what no worker could do, before anything is begun."""
    found = find_format(options.format)
    if found.encoder is None:
        raise PipelineError(f"format {found.name!r} can only be read; write another one")
    found.encoder(io.BytesIO(), WriteOptions(compression=options.compression))
    for transform in options.transforms:
        transform.build()


def _engine(
    name: EngineName, num_workers: int, ray_address: str | None, *, is_early: bool
) -> Engine:
    if name == "local":
        return LocalEngine(num_workers=num_workers, is_early=is_early)
    if name == "ray":
        from iopipe.jobs.ray import RayEngine

        return RayEngine(address=ray_address, num_workers=num_workers)
    raise PipelineError(f"engine is {name!r}; use 'local' or 'ray'")


def _as_paths(source: Paths) -> tuple[str, ...]:
    wanted = [source] if isinstance(source, str | os.PathLike) else list(source)
    return tuple(os.fspath(path) for path in wanted)


def _job(paths: tuple[str, ...], folder: Path, url: str | None, options: ShardOptions) -> Job:
    """A job whose plan is not settled yet: enough to open the source."""
    return Job(
        paths=paths,
        folder=str(folder),
        url=url,
        options=options,
        plan=Plan(outputs=(), samples_per_shard=1, shuffle_seed=None),
        selections=(),
        scratch=str(folder / FOLDER),
        is_external=False,
    )

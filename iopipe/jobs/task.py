"""One output shard: read, transform, write.

Stands in every worker of every engine.  Invariant: what a task writes depends on the job
and the task's number alone, so it may run anywhere, twice, and in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError
from iopipe.jobs.external import gathered
from iopipe.jobs.options import ShardOptions
from iopipe.jobs.plan import Task
from iopipe.jobs.reading import Job, Reader, Rejection
from iopipe.jobs.transform import Sample, Transform
from iopipe.jobs.upload import upload
from iopipe.readers import WriteOptions
from iopipe.readers.formats import find_format
from iopipe.readers.manifest import ShardEntry
from iopipe.readers.writing import ShardWriter

_KEY = "__key__"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What came of a task."""

    number: int
    entry: ShardEntry | None
    """None where no sample was left to write."""
    columns: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    num_read: int
    num_bytes: int
    """Written."""


class Worker:
    """Runs tasks of one job, one after the other."""

    def __init__(self, job: Job, reader: Reader | None = None, *, is_behind: bool = False) -> None:
        """`reader` is one of this job that is open already, if there is one; `is_behind` has
        a second thread write the shards."""
        self._job = job
        self._is_behind = is_behind
        self.reader = reader or Reader(job)
        self._transforms = [spec.build() for spec in job.options.transforms]

    def run(self, number: int) -> TaskResult:
        """Write the shard of task `number`; whatever was there before is replaced."""
        task = self._job.plan.task(number)
        writing = _Writing(self._job, task, self._transforms, self._schema(), self._is_behind)
        try:
            for samples, rejected in self._chunks(task):
                writing.add(samples, rejected)
            return writing.complete()
        except BaseException:
            writing.discard()
            raise

    def _schema(self) -> pa.Schema | None:
        """What formats with typed columns keep of the source's types; None where a transform
        makes other ones, or the format has none."""
        is_typed = self._job.options.format in ("arrow", "parquet")
        if self._transforms or not is_typed:
            return None
        return pa.schema([(_KEY, pa.string()), *self.reader.source.schema])

    def _chunks(self, task: Task) -> Iterator[tuple[list[tuple[int, Sample]], list[Rejection]]]:
        if self._job.is_external:
            yield from gathered(self._job, task)
            return
        size = self.reader.chunk_samples
        for first in range(task.first, task.last, size):
            last = min(first + size, task.last)
            indices = self._job.plan.indices(task.output, first, last)
            ids = self.reader.ids(task.output, indices)
            yield self.reader.read(ids, np.arange(first, last))


class _Writing:
    """The shard of a task while it is written."""

    def __init__(
        self,
        job: Job,
        task: Task,
        transforms: Sequence[Transform],
        schema: pa.Schema | None,
        is_behind: bool,
    ) -> None:
        self._job = job
        self._is_behind = is_behind
        self._task = task
        self._transforms = transforms
        self._schema = schema
        self._format = find_format(job.options.format)
        self._path = Path(job.folder, task.output.folder, shard_name(job.options, task.shard))
        self._writer: ShardWriter | None = None
        self._rejected: list[Rejection] = []

    def add(self, samples: list[tuple[int, Sample]], rejected: list[Rejection]) -> None:
        self._rejected += rejected
        for position, sample in self._transformed(samples):
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                options = WriteOptions(
                    compression=self._job.options.compression, schema=self._schema
                )
                self._writer = ShardWriter(
                    self._path, self._format, options, is_behind=self._is_behind
                )
            try:
                self._writer.write(self._named(sample))
            except DataError as error:
                self._reject(position, sample["__key__"], error)

    def complete(self) -> TaskResult:
        entry, columns = self._writer.complete() if self._writer else (None, ())
        if self._job.url is not None:
            self._upload(self._job.url)
        return TaskResult(
            number=self._task.number,
            entry=entry,
            columns=columns,
            rejected=tuple(sorted(self._rejected, key=lambda rejection: rejection.position)),
            num_read=self._task.last - self._task.first,
            num_bytes=entry.num_bytes if entry else 0,
        )

    def _upload(self, url: str) -> None:
        """Send the shard, after the files beside it; the local ones are not needed then."""
        folder = Path(self._job.folder)
        found = sorted(self._path.parent.glob(f"{self._path.stem}.*"), reverse=True)
        files = [path for path in found if path.suffix != ".tmp"]  # of workers that were killed
        upload(url, folder, [str(path.relative_to(folder)) for path in files])
        for path in found:
            path.unlink()

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.discard()

    def _transformed(self, samples: list[tuple[int, Sample]]) -> list[tuple[int, Sample]]:
        for transform in self._transforms:
            outcomes = transform([sample for _, sample in samples])
            became: list[tuple[int, Sample]] = []
            for (position, sample), outcome in zip(samples, outcomes, strict=True):
                if isinstance(outcome, DataError):
                    self._reject(position, sample["__key__"], outcome)
                else:
                    became += [(position, made) for made in outcome]
            samples = became
        return samples

    def _reject(self, position: int, key: str, error: DataError) -> None:
        error.key = error.key or key
        if self._job.options.on_error == "raise":
            raise error
        self._rejected.append(
            Rejection(
                position=position,
                key=key,
                shard=error.shard or "",
                offset=error.offset or 0,
                reason=error.reason,
            )
        )

    def _named(self, sample: Sample) -> Sample:
        """A tar member's name gives its key up to the first dot of the last part."""
        if self._format.name != "webdataset" or "." not in sample["__key__"]:
            return sample
        folder, slash, name = sample["__key__"].rpartition("/")
        return {**sample, "__key__": f"{folder}{slash}{name.replace('.', '_')}"}


def shard_name(options: ShardOptions, shard: int) -> str:
    return f"shard-{shard:06d}{find_format(options.format).suffixes[0]}"

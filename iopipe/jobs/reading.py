"""The source of a job, as its workers read it.

Stands between readers and tasks.  Invariant: every sample that is asked for comes back, as
itself or as a rejection that names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iopipe.errors import DataError
from iopipe.jobs.options import ShardOptions
from iopipe.jobs.plan import Output, Plan
from iopipe.jobs.transform import Sample
from iopipe.plan import samples_in
from iopipe.protocols import Int64Array, Source, Store
from iopipe.readers import open_source
from iopipe.readers.checksums import rows_of
from iopipe.storage import open_store

_CHUNK_SAMPLES = 64
_CHUNK_BYTES = 2 << 20
"""Of a source that need not be waited for: about what stays in a core's cache between being
read, hashed and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker must know; plain values, so that it travels anywhere."""

    paths: tuple[str, ...]
    """Of the source."""
    folder: str
    """Local folder that the shards are written to, at first."""
    url: str | None
    """Where they go from there; None: they stay."""
    options: ShardOptions
    plan: Plan
    selections: tuple[str | None, ...]
    """Of each output: a file of int64 sample ids; None: all samples of the source."""
    scratch: str
    """Local folder for what the job needs between its passes."""
    is_external: bool
    """Whether output shards take their samples from the runs of the external shuffle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A sample that is not in the output, and why."""

    position: int
    """In the order of its output."""
    key: str
    shard: str
    offset: int
    reason: str


class Reader:
    """The source of a job, as its workers read it."""

    def __init__(self, job: Job) -> None:
        options = job.options
        self.job = job
        self.store: Store = open_store(job.paths[0])
        try:
            self.source: Source = open_source(
                job.paths, store=self.store, columns=options.columns, on_error=options.on_error
            )
        except BaseException:
            self.store.close()
            raise
        self.chunk_samples = _CHUNK_SAMPLES
        """To be read at once: of a remote source many, so that its answers overlap."""
        if len(self.source) and self.store.local_path(self.source.shards[0]) is not None:
            self.chunk_samples = min(_CHUNK_SAMPLES, samples_in(_CHUNK_BYTES, self.source))
        self._selections: dict[str, Int64Array] = {}

    def close(self) -> None:
        """Give back the store's descriptors and threads; nothing can be read any more."""
        self.store.close()

    def ids(self, output: Output, indices: Int64Array) -> Int64Array:
        """The samples of the source that an output counts as these."""
        path = self.job.selections[self.job.plan.outputs.index(output)]
        if path is None:
            return indices
        if path not in self._selections:
            self._selections[path] = np.memmap(path, np.int64, "r")
        return np.asarray(self._selections[path][indices])

    def read(
        self, ids: Int64Array, positions: Int64Array
    ) -> tuple[list[tuple[int, Sample]], list[Rejection]]:
        """(position, sample) of those that can be read, and the others."""
        left = list(zip(ids.tolist(), positions.tolist(), strict=True))
        rejected: list[Rejection] = []
        while left:
            try:
                found = self.source.samples([sample for sample, _ in left], self.store)
            except DataError as error:
                if error.row is None and len(left) > 1:
                    return self._read_one_by_one(left, rejected)
                sample, position = left.pop(error.row or 0)
                rejected.append(self._rejection(sample, position, error))
                continue
            rows = zip(left, found.keys, rows_of(found), strict=True)
            return [(p, {"__key__": key, **fields}) for (_, p), key, fields in rows], rejected
        return [], rejected

    def _read_one_by_one(
        self, places: list[tuple[int, int]], rejected: list[Rejection]
    ) -> tuple[list[tuple[int, Sample]], list[Rejection]]:
        """For errors that do not say which sample they are about."""
        parts = [self.read(np.array([sample]), np.array([place])) for sample, place in places]
        samples = [row for rows, _ in parts for row in rows]
        return samples, rejected + [lost for _, losses in parts for lost in losses]

    def _rejection(self, sample: int, position: int, error: DataError) -> Rejection:
        place = self.source.locate(sample)
        if self.job.options.on_error == "raise":
            raise DataError(
                error.reason, shard=place.shard, offset=place.offset, key=place.key
            ) from error
        return Rejection(
            position=position,
            key=place.key,
            shard=place.shard,
            offset=place.offset,
            reason=error.reason,
        )

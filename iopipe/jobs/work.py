"""What an engine hands to a worker, and the worker's side of it.

Stands between engines and tasks.  Invariant: an item is a name and plain numbers, so that
every engine can carry it, repeat it and say what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias

from iopipe.jobs import dedup, external
from iopipe.jobs.reading import Job, Reader
from iopipe.jobs.task import Worker

Item: TypeAlias = tuple[str, int, int, int]
"""(kind, number, output, size): ('shard', task, 0, 0), ('run', run, output, samples per run)
or ('hash', run, 0, samples per run)."""


class Engine(Protocol):
    """Runs items somewhere, in any order; one run after the other."""

    def run(self, job: Job, items: Iterable[Item]) -> Iterator[Any]:
        """The results as they come; the first error ends the run and is raised.  After a run
        that did not come to its end the engine can only be closed."""
        ...

    def close(self) -> None:
        """End the workers; idempotent."""
        ...


class Handler:
    """Does items of one job, in the process that made it."""

    def __init__(self, job: Job, reader: Reader | None = None, *, is_behind: bool = False) -> None:
        self._worker = Worker(job, reader, is_behind=is_behind)
        self._job = job

    def __call__(self, item: Item) -> Any:
        kind, number, output, size = item
        if kind == "shard":
            return self._worker.run(number)
        if kind == "run":
            found = self._job.plan.outputs[output]
            return external.write_run(self._worker.reader, found, number, size)
        return dedup.write_hashes(self._worker.reader, number, size)

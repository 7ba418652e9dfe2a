"""The inline engine: this process itself, for copying that is over before worker processes
have begun.

Stands between a job and its tasks, like the local engine.  Invariant: it runs no code of the
user's, so nothing but the job can die.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from iopipe.jobs.reading import Job, Reader
from iopipe.jobs.work import Handler, Item

_KEPT_BYTES = 16 << 20


class InlineEngine:
    """One task after the other; a second thread writes what the first has read."""

    def __init__(self, reader: Reader, *, is_behind: bool) -> None:
        """`reader` is the source of the job, open; `is_behind` allows the second thread."""
        self._reader = reader
        self._is_behind = is_behind
        # glibc's malloc learns from one large block that came and went to keep that much
        # (mallopt(3), the dynamic threshold); else the pages of each chunk are faulted in anew.
        bytes(_KEPT_BYTES)

    def run(self, job: Job, items: Iterable[Item]) -> Iterator[Any]:
        """The results in the order of the items; the first error ends the run."""
        self._reader.job = job
        handler = Handler(job, self._reader, is_behind=self._is_behind)
        for item in items:
            yield handler(item)

    def close(self) -> None:
        """Nothing is left when a run has ended."""

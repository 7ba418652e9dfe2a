"""What happens to a damaged sample: raise, skip or quarantine, within a budget.

Stands around the function of every stage that works on samples.  Invariant: only a
`DataError` that names its row can be skipped; every other exception ends the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from iopipe.errors import DataError, ErrorBudgetExceeded
from iopipe.meter.report import ErrorReport
from iopipe.protocols import ErrorPolicy, Samples, Source

_logger = logging.getLogger(__name__)

_MAX_EXAMPLES = 100


class Faults:
    """Applies the policy and keeps count; thread-safe, one a run."""

    def __init__(
        self,
        source: Source,
        *,
        policy: ErrorPolicy,
        max_errors: int,
        quarantined: Iterable[int] = (),
    ) -> None:
        self._source = source
        self._policy = policy
        self._max_errors = max_errors
        self._lock = threading.Lock()
        self._examples: list[str] = []
        self._num_skipped = 0
        self.quarantined = set(quarantined)
        for fault in source.faults:
            self._count(fault)

    def apply(
        self, stage: str, function: Callable[[Samples], Samples], samples: Samples
    ) -> Samples:
        """`function(samples)`, without the rows that the policy lets go.

        A chunk with a damaged row is worked on again without it: damage is rare, and the
        stages need not know of the policy.
        """
        while len(samples):
            try:
                return function(samples)
            except DataError as error:
                self._locate(error, samples)
                error.add_note(f"in stage {stage!r}")
                if self._policy == "raise" or error.row is None:
                    raise
                self._let_go(error)
                rest = [row for row in range(len(samples)) if row != error.row]
                samples = samples.take(rest)
            except BaseException as error:
                error.add_note(f"in stage {stage!r}, samples {samples.ids.tolist()}")
                raise
        return samples

    def report(self) -> ErrorReport:
        with self._lock:
            return ErrorReport(num_skipped=self._num_skipped, examples=tuple(self._examples))

    def _locate(self, error: DataError, samples: Samples) -> None:
        if error.row is None:
            return
        error.sample_id = int(samples.ids[error.row])
        place = self._source.locate(error.sample_id)
        error.shard = error.shard or place.shard
        error.key = error.key or place.key
        error.offset = place.offset if error.offset is None else error.offset

    def _let_go(self, error: DataError) -> None:
        if self._policy == "quarantine" and error.sample_id is not None:
            with self._lock:
                self.quarantined.add(error.sample_id)
        self._count(error)

    def _count(self, error: DataError) -> None:
        with self._lock:
            self._num_skipped += 1
            if len(self._examples) < _MAX_EXAMPLES:
                self._examples.append(str(error))
            num_skipped = self._num_skipped
        _logger.warning("left out: %s", str(error))  # not its traceback, and all that it holds
        if num_skipped > self._max_errors:
            raise ErrorBudgetExceeded(
                f"{num_skipped} damaged samples are more than max_errors={self._max_errors}; "
                f"repair the data or raise max_errors; the last one: {error}"
            ) from error

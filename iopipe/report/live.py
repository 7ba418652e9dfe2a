"""A running job tells what its meter knows, now and then, to whoever was asked for.

Stands beside the training loop, which calls `step()` once a step.  Invariant: the report is
taken in the thread that trains, since a meter serves one thread, at most once in
`every_seconds`, and so seldom that reports take a twentieth of the time at most; in between a
step costs one reading of a clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from iopipe.errors import PipelineError
from iopipe.report.content import Reported, content_of

_LEAST_PAUSE = 19
"""Times what a report took; predictions in it take some tenths of a second."""

Content = Mapping[str, Any]
"""A report as plain values of schema 1; nobody changes it."""


class Output(Protocol):
    """Where reports go; called in the thread that trains."""

    def show(self, content: Content) -> None: ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Live:
    """Takes a report every now and then and shows it to all outputs; closes them at the end.

    report = partial(run.report, predict=False)
    with Live(report, [RuntimeFile(), PrometheusEndpoint()]) as live:
        for batch in run:
            train(batch)
            live.step()
    """

    def __init__(
        self,
        report: Callable[[], Reported | Content],
        outputs: Sequence[Output],
        *,
        every_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every_seconds <= 0:
            raise PipelineError(f"every_seconds is {every_seconds}: give more than 0")
        self._report = report
        self._outputs = tuple(outputs)
        self._every_seconds = every_seconds
        self._clock = clock
        self._due = clock() + every_seconds

    def step(self) -> None:
        """A step is over; what an output raises is raised."""
        now = self._clock()
        if now >= self._due:
            self.show()
            # From now on, not from when it was due: a pause is not made up for in a burst.
            end = self._clock()
            self._due = end + max(self._every_seconds - (end - now), _LEAST_PAUSE * (end - now))

    def show(self) -> None:
        """Now, whatever the clock says."""
        content = content_of(self._report())
        for output in self._outputs:
            output.show(content)

    def close(self) -> None:
        """Idempotent; the first error is raised when all were closed."""
        errors = []
        for output in self._outputs:
            try:
                output.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LogLine:
    """One line of plain words to a logger: verdict, steps, rate."""

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        self._logger = logger if logger is not None else logging.getLogger(__name__)
        self._level = level

    def show(self, content: Content) -> None:
        self._logger.log(
            self._level,
            "step %d: %.1f samples/s; %s",
            content.get("num_steps", 0),
            content.get("samples_per_second", 0.0),
            content.get("verdict", ""),
        )

    def close(self) -> None:
        """A logger is its program's."""

"""Watches the training loop ask for batches, and charges what its stream waits for.

Stands in the consumer's thread.  Invariant: it never waits for the device, never changes
data or order, and its memory does not grow with the number of steps.

Around the hand-off of batch N, on the clock of the compute stream:

    E  end of step N-1's kernels (`step()`; without it, the request)
    T  the request for batch N
    A  the batch is handed over
    B  ... and its bytes are there (the stream has waited for the copy)
    M  ... the user's own copies of it too (`moved()`; without it, B)
    C  the first kernel of step N (`begin()`; without it, M)

Each is an event in stream order, so it lies at the later of the moment it was recorded and
the moment the stream got there.  T..A is therefore the part of the host's wait that found
the stream idle (input, host), A..M what the copies still took (input, device), M..C what
the launch took, E..T what the user's own code took.  Time that the stream had work for is
charged to nobody, however long the host waited.  A lap is B..B, from one batch to the next;
wall time is the sum of laps, on the stream's clock as well, since the host may be far ahead
of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from iopipe.meter.cores import usable_cores
from iopipe.meter.events import HostEvents
from iopipe.meter.interference import WindowMeter
from iopipe.meter.loader_model import LoaderModel
from iopipe.meter.ranks import RankMeter, RankStalls
from iopipe.meter.recording import RecordedStep
from iopipe.meter.report import EdgeReport, ErrorReport, Report, StageReport, StorageUse
from iopipe.meter.spans import Span
from iopipe.meter.tally import History, Kind, Lap, Tally, Totals
from iopipe.meter.what_if import Limits, what_if
from iopipe.protocols import Cause, Event, Events

T = TypeVar("T")

_MAX_FIELDS = 32

Mark: TypeAlias = tuple[Event, int]
"""A moment on the stream's clock and on the host's."""


class Meter:
    """Measures any loop over batches; for one thread.

    `watch(loader)` wraps a foreign loader; an iopipe run has a meter of its own.  May go on
    over several iterations; the time between `finish` and the next `enter` is left out.
    """

    def __init__(
        self,
        events: Events | None = None,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        max_steps: int = 100_000,
        history: History | None = None,
        windows: WindowMeter | None = None,
        ranks: RankMeter | None = None,
    ) -> None:
        """`max_steps` bounds what is kept of single steps; totals cover all of them.
        `history` is told of every step, `windows` as well, which must hear of every batch;
        `ranks` sends the stalls to the other ranks."""
        self.windows = windows
        self._ranks = ranks
        self._events: Events = events if events is not None else HostEvents(clock)
        self._releases = not isinstance(self._events, HostEvents)
        """Readings of the host's clock need no pool."""
        self._clock = clock
        self._tally = Tally(
            self._events, max_steps, tuple(one for one in (history, windows, ranks) if one)
        )
        self._pending: deque[Lap] = deque()
        self._origin: Event | None = None
        self._moved: Event | None = None
        self._begun: Event | None = None
        self._end: Event | None = None
        self._request: tuple[Event, int] | None = None
        self._num_samples = 0
        self._is_open = False
        self._cpu_ns = 0
        self._cpu_since_ns: int | None = None

    def watch(self, loader: Iterable[T]) -> Iterator[T]:
        """The batches of any loader, measured; its waits have the cause 'loader'.

        One iteration; call it again for the next epoch.  The start of the loader's workers
        belongs to the wait for its first batch.
        """
        try:
            self.enter()
            batches = iter(loader)
            while True:
                start_ns = self._clock()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                span = Span("loader", "loader", start_ns, self._clock())
                self.handoff(spans=(span,), num_samples=num_samples_of(batch))
                yield batch
                self.enter()
        finally:
            self.finish()

    def step(self) -> None:
        """The kernels of this step are enqueued; optional, makes the end of it exact.

        Where gradients are accumulated, every batch has a step of its own; of several calls
        for one batch the last counts.  Marks behind the last batch of an iteration, such as
        those of gradients that were left over, are marks of no step and count for nothing.
        """
        if self._origin is None:
            return
        if self._end is not None:
            self._events.release(self._end)
        self._end = self._events.record()

    def moved(self) -> None:
        """The loop's own copies of the batch to the device are enqueued; optional, charges
        what they take to them.  The last call before `begin` counts."""
        if self._origin is None or self._begun is not None or self._end is not None:
            return
        if self._moved is not None:
            self._events.release(self._moved)
        self._moved = self._events.record()

    def begin(self) -> None:
        """The first kernel of this step comes next; optional, tells a slow launch from a
        long step.  The first call of a step counts."""
        if self._origin is not None and self._begun is None and self._end is None:
            self._begun = self._events.record()

    def enter(self) -> None:
        """The training loop asks for its next batch.

        Asking again for a batch that did not come (its loader raised) is the same wait.
        """
        self._asked()
        if self._cpu_since_ns is None:
            self._cpu_since_ns = time.process_time_ns()
        self._harvest()

    def handoff(
        self,
        *,
        spans: Sequence[Span] = (),
        ready: Event | None = None,
        device_cause: Cause = "h2d",
        num_samples: int = 0,
        take_ns: int = 0,
    ) -> None:
        """The batch is handed over; the stream is made to wait for `ready`.

        `spans` tell what was done to it and when, `device_cause` what `ready` comes after,
        `take_ns` what the loop itself had to do to take it over.
        """
        if self._request is None:
            raise RuntimeError("handoff comes after enter")
        handed_ns = self._clock()
        handed = self._events.record()
        arrived = handed
        if ready is not None:
            self._events.wait(ready)
            arrived = self._events.record()
        kind: Kind = "step"
        if self._origin is None:
            kind = "again" if self._is_open else "first"
        self._add_lap(
            kind,
            self._request,
            (handed, handed_ns),
            arrived,
            spans=tuple(spans),
            device_cause=device_cause,
            take_ns=take_ns,
        )
        self._is_open = True
        self._origin, self._num_samples = arrived, num_samples

    def finish(self) -> None:
        """There is no next batch; ends the last step.  Idempotent."""
        if self._origin is not None:
            request = self._asked()
            self._add_lap("last", request, request, request[0])
        self._origin = self._request = None
        self._cpu_ns, self._cpu_since_ns = self._cpu_now_ns(), None
        self._harvest()

    def leave(self) -> None:
        """The iteration may have been left: ends it where the end of its step is marked.  Who
        takes one batch from each iteration has its step still to come."""
        if self._end is not None:
            self.finish()

    def report(
        self,
        *,
        stages: tuple[StageReport, ...] = (),
        edges: tuple[EdgeReport, ...] = (),
        errors: ErrorReport | None = None,
        model: LoaderModel | None = None,
        limits: Limits | None = None,
        storage: StorageUse | None = None,
    ) -> Report:
        """What is known so far.  Steps that the device has not passed yet are left out of
        all numbers; synchronise before if the last ones matter.

        With a `model` of the loader the report predicts what changes would bring, within the
        `limits` of the machine; that takes some tenths of a second.
        """
        self._harvest()
        tally = self._tally
        wall_ns = tally.wall_ns
        causes: dict[str, float] = {
            name: _ratio(part, wall_ns) for name, part in tally.causes_ns.items()
        }
        predicted = (
            ()
            if model is None
            else what_if(tally.recorded(), model, causes=causes, limits=limits or self._limits())
        )
        return Report(
            compute_stream=self._events.stream,
            num_steps=tally.num_steps,
            num_samples=tally.num_samples,
            wall_seconds=wall_ns / 1e9,
            samples_per_second=_ratio(tally.num_samples * 1e9, wall_ns),
            first_batch_seconds=tally.first_batch_ns / 1e9,
            cpu_seconds=self._cpu_now_ns() / 1e9,
            attributed_stall_seconds=tally.stall_ns / 1e9,
            attributed_stall_fraction=_ratio(tally.stall_ns, wall_ns),
            causes=causes,
            what_if=predicted,
            interference=self.windows.report() if self.windows else None,
            storage=storage,
            straggler=self._ranks.straggler() if self._ranks else "",
            recoverable_stall_fraction=_ratio(tally.recoverable_ns, wall_ns),
            launch_fraction=_ratio(tally.launch_ns, wall_ns),
            other_host_fraction=_ratio(tally.other_host_ns, wall_ns),
            step_ms=tally.step_ms(),
            stall_ms=tally.stall_ms(),
            lead_ms=tally.lead_ms(),
            stages=stages,
            edges=edges,
            errors=errors or ErrorReport(),
            steps=tally.steps(),
        )

    def rank_stalls(self) -> RankStalls | None:
        """Of all ranks, over all steps so far; None where no `ranks` were given.  Waits for the
        device and for the other ranks, which all call it after the same number of steps."""
        if self._ranks is None:
            return None
        if self._pending:
            self._events.synchronize(self._pending[-1].ready)
        self._harvest()
        return self._ranks.finish()

    def recorded(self) -> tuple[RecordedStep, ...]:
        """The last few thousand steps since the latest pause, for `what_if`."""
        self._harvest()
        return self._tally.recorded()

    def totals(self) -> Totals:
        """What all steps add up to so far; cheap."""
        self._harvest()
        return self._tally.totals()

    def forget_steps(self) -> None:
        """The loader has been changed: what is predicted rests on steps from now on."""
        self._tally.forget_steps()

    # ---- laps ------------------------------------------------------------------------

    def _asked(self) -> Mark:
        if self._request is None:
            host_ns = self._clock()
            self._request = (self._events.record(), host_ns)
        return self._request

    def _add_lap(
        self,
        kind: Kind,
        request: Mark,
        handed: Mark,
        ready: Event,
        *,
        spans: tuple[Span, ...] = (),
        device_cause: Cause = "h2d",
        take_ns: int = 0,
    ) -> None:
        self._pending.append(
            Lap(
                kind=kind,
                origin=request[0] if self._origin is None else self._origin,
                moved=self._moved,
                begun=self._begun,
                end=self._end,
                request=request[0],
                handed=handed[0],
                ready=ready,
                request_ns=request[1],
                handed_ns=handed[1],
                spans=spans,
                device_cause=device_cause,
                take_ns=take_ns,
                num_samples=self._num_samples,
            )
        )
        self._request = self._moved = self._begun = self._end = None
        self._num_samples = 0

    def _harvest(self) -> None:
        """Take in the laps whose last event the device has passed, oldest first."""
        while self._pending and self._events.done(self._pending[0].ready):
            lap = self._pending.popleft()
            self._tally.add(lap)
            if self._releases:
                for event in lap.spent_events():
                    self._events.release(event)

    def _limits(self) -> Limits:
        taken = _ratio(self._cpu_now_ns() / 1e9, self._tally.num_samples)
        return Limits(cores=usable_cores(), cpu_seconds_per_sample=taken)

    def _cpu_now_ns(self) -> int:
        if self._cpu_since_ns is None:
            return self._cpu_ns
        return self._cpu_ns + time.process_time_ns() - self._cpu_since_ns


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def num_samples_of(batch: Any) -> int:
    """The first dimension of the first array in a batch; 0 where there is none among the first
    `_MAX_FIELDS` of a list or mapping: a longer list is a column of words, and takes long."""
    if getattr(batch, "ndim", 0):
        # torch's method comes first: a nested tensor refuses to tell its shape.
        return int(batch.size(0) if callable(batch.size) else batch.shape[0])
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if not isinstance(batch, list | tuple):
        return 0
    return next(filter(None, map(num_samples_of, batch[:_MAX_FIELDS])), 0)

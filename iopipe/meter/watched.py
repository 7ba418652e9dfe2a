"""Any loader, measured: what `iopipe.meter(loader)` gives.

Stands between a foreign loader and the training loop.  Invariant: the loader's batches come
unchanged, in order, and its attributes can be asked for as before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from iopipe.errors import PipelineError
from iopipe.meter.events import CudaEvents, HostEvents
from iopipe.meter.interference import CachedWindows, WindowMeter
from iopipe.meter.meter import Meter
from iopipe.meter.ranks import RankMeter
from iopipe.meter.report import Report
from iopipe.meter.streams import JointEvents
from iopipe.meter.tally import History
from iopipe.protocols import Events

T = TypeVar("T")


class MeteredLoader(Generic[T]):
    """Iterates over a loader and measures what the training step waits for.

        loader = iopipe.meter(loader, device="cuda")
        for batch in loader:
            ...
            loader.step()
        print(loader.report())

    `step()`, `begin()` and `moved()` are optional marks, see `Meter`; compiled and
    graph-replayed steps are marked the same way, outside the graph.
    """

    def __init__(
        self, loader: Iterable[T], *, meter: Meter, windows: CachedWindows | None = None
    ) -> None:
        self._loader = loader
        self._windows = windows
        self._meter = meter
        self.step = meter.step
        self.begin = meter.begin
        self.moved = meter.moved
        self.rank_stalls = meter.rank_stalls

    def __iter__(self) -> Iterator[T]:
        if self._windows is None or self._meter.windows is None:
            return self._meter.watch(self._loader)
        return self._meter.watch(self._windows.over(self._loader, self._meter.windows.on_step))

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # TypeError where it has none

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self._loader, name)

    def report(self) -> Report:
        """What was measured so far, over all iterations."""
        return self._meter.report()


def meter(
    loader: Iterable[T],
    *,
    device: str | None = None,
    streams: Sequence[Any] = (),
    history: History | None = None,
    windows: CachedWindows | None = None,
    ranks: RankMeter | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> MeteredLoader[T]:
    """Measure any iterable of batches: a torch DataLoader, a DALI iterator, a generator.

    `device` is where the training step runs, 'cuda' or 'cuda:1'; None: on the host.  The
    step's stream is the current one of the thread that iterates; `streams` are further ones
    (torch.cuda.Stream) whose work counts as the step's: idle is when none of them has any.

    `windows` repeats a batch now and then, to find what the input costs without stopping the
    step; it adds steps to the training.  `ranks` compares the stalls of all ranks:
    `rank_stalls()` says what each has cost.
    """
    measured = Meter(
        events_of(device, streams, clock=clock),
        clock=clock,
        history=history,
        windows=None if windows is None else WindowMeter(),
        ranks=ranks,
    )
    return MeteredLoader(loader, meter=measured, windows=windows)


def events_of(
    device: str | None,
    streams: Sequence[Any] = (),
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Events:
    """The clock of a training step that runs on `device`; `PipelineError` for what is none."""
    kind = str(device or "cpu").partition(":")[0]
    if kind == "cpu":
        return HostEvents(clock)
    if kind != "cuda":
        raise PipelineError(f"device is {str(device)!r}: give 'cpu', 'cuda' or 'cuda:1'")
    if not streams:
        return CudaEvents(device)
    return JointEvents([CudaEvents(device), *(CudaEvents(device, stream=s) for s in streams)])

"""What a run is made of, and the part of it that runs.

Stands between the builder, which fills the spec, and the run, which a user iterates over.
Invariant: what is opened here is closed here; a pass does not know its `Run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from iopipe.autotune.budget import Budget
from iopipe.engine import Engine
from iopipe.faults import Faults
from iopipe.knobs import ChunkSize
from iopipe.order import Cursor
from iopipe.plan import Plan
from iopipe.protocols import ByteRange, ErrorPolicy, Source, Store
from iopipe.stages import Delivery, ReadAhead, Stage, Workers
from iopipe.storage.ceiling import Ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSpec:
    """How a run is tuned."""

    budget: Budget
    shape: Mapping[str, Any]
    chunk: ChunkSize | None
    """What the plan asks; None where it cuts as it always does."""
    is_pinned: bool
    """Whether batches lie in page-locked memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a pipeline hands to its runs."""

    source: Source
    plan: Plan
    stages: Callable[[Store | None, Workers | None, Delivery | None], tuple[Stage, ...]]
    """The stages from the read on, bound to the store or the workers, and the slots, of one
    run."""
    workers: Callable[[], Workers] | None
    """None where threads of this process do it all."""
    open_store: Callable[[], Store]
    owns_store: bool
    """Whether a run closes the store that it got from `open_store`."""
    delivery: Callable[[], Delivery] | None
    """None where samples are delivered, not batches."""
    batch_size: int | None
    """Batches that come together are taken apart to this size."""
    policy: ErrorPolicy
    max_errors: int
    window: int | None
    """None: batches come in the order of the plan; else as they are ready, from among so many."""
    read_ahead: Callable[[Store, Iterator[Sequence[ByteRange]]], ReadAhead] | None
    """Puts a store over the run's own that reads what is to come."""
    ledger: str | os.PathLike[str] | None
    """The folder where what is delivered is logged."""
    near: Callable[[], AbstractContextManager[None]] | None
    """Threads that are started within keep near the device; None: they may run anywhere."""
    tune: TuneSpec | None
    """None: what is set stays as it is."""
    ceiling: Ceiling | None
    """Of its storage; None: not known, and what is read is not counted."""


class Pass:
    """The running part of a run: engine and store.  Does not know the `Run`, so that a run
    that is dropped without `close` can be collected and closed."""

    def __init__(
        self,
        spec: RunSpec,
        delivery: Delivery | None,
        cursor: Cursor,
        quarantined: list[int],
    ) -> None:
        self._delivery = delivery
        self._owns_store = spec.owns_store
        self.faults = Faults(
            spec.source,
            policy=spec.policy,
            max_errors=spec.max_errors,
            quarantined=quarantined,
        )
        self.workers = spec.workers() if spec.workers else None
        self._store = spec.open_store() if self.workers is None else None
        self.ahead: ReadAhead | None = None
        try:
            if spec.read_ahead is not None and self._store is not None:
                coming = (spec.source.ranges(task.ids) for task in spec.plan.tasks(cursor))
                self.ahead = spec.read_ahead(self._store, coming)
            stages = spec.stages(self.ahead or self._store, self.workers, delivery)
        except BaseException:  # an engine that cannot be opened here
            self._close_inputs()
            raise
        self._held = [stage.held for stage in stages if stage.held is not None]
        self.engine = Engine(
            spec.plan.tasks(cursor),
            stages,
            seed=spec.plan.order.sequence.seed,
            pads=spec.plan.order.tail == "pad",
            window=spec.window,
            faults=self.faults,
            delivery=delivery,
            is_watched=spec.tune is not None,
        )

    def notes(self) -> tuple[str, ...]:
        """What its stages did otherwise than their names say."""
        return tuple(note for held in self._held for note in held.notes())

    def close(self) -> None:
        """Stop threads, close what was opened; idempotent."""
        if self.workers is not None:
            self.workers.close()  # before the threads that wait for them
        self.engine.close()
        for held in self._held:
            held.close()
        if self._delivery is not None:
            self._delivery.close()
        self._close_inputs()

    def _close_inputs(self) -> None:
        if self.workers is not None:
            self.workers.close()
        if self.ahead is not None:
            self.ahead.close()
        if self._owns_store and self._store is not None:
            self._store.close()

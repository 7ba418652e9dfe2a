"""One pass over a pipeline, as the user's training loop sees it.

Stands at the end of the flow, in the consumer's thread.  Invariant: `state_dict` speaks of
what was delivered, never of what is prefetched; `close` leaves no thread and no descriptor.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from iopipe.engine import Chunk, Engine, Failure, Parcel
from iopipe.errors import PipelineError, StateError
from iopipe.faults import Faults
from iopipe.meter.meter import Meter
from iopipe.meter.report import Report
from iopipe.order import Cursor
from iopipe.plan import Plan, Task
from iopipe.protocols import ErrorPolicy, Samples, Source, Store
from iopipe.stages import Delivery, Stage

STATE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a pipeline hands to its runs."""

    source: Source
    plan: Plan
    stages: Callable[[Store, Delivery | None], tuple[Stage, ...]]
    """The stages from the read on, bound to the store and the slots of one run."""
    open_store: Callable[[], Store]
    owns_store: bool
    """Whether a run closes the store that it got from `open_store`."""
    delivery: Callable[[], Delivery] | None
    """None where samples are delivered, not batches."""
    policy: ErrorPolicy
    max_errors: int


class Run:
    """Context manager and iterator over batches, or over samples where none are batched.

    Threads start with the first `next`.  Batches are the caller's: their memory goes back
    to the run's slots only when the last tensor over it is gone.  Not thread-safe: one
    consumer.
    """

    def __init__(self, spec: RunSpec, *, cursor: Cursor) -> None:
        self._spec = spec
        self._cursor = cursor
        self._quarantined: list[int] = []
        self._delivery = spec.delivery() if spec.delivery else None
        self._meter = Meter(self._delivery.events if self._delivery else None)
        self._pass: _Pass | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._finished = False
        self._closed = False

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._delivery is not None:
            return self._next_item()
        while (row := next(self._rows, None)) is None:
            self._next_item()
        return row

    def __len__(self) -> int:
        """Batches left from the current place to the last epoch's end."""
        plan = self._spec.plan
        if plan.end_epoch is None:
            raise TypeError("a run without end has no length; give num_epochs")
        if self._spec.delivery is None:
            raise TypeError("a run over samples has no length in batches; add batch(n)")
        if self._cursor.epoch >= plan.end_epoch:
            return 0
        later = range(self._cursor.epoch + 1, plan.end_epoch)
        return plan.num_batches(self._cursor) + sum(
            plan.num_batches(Cursor(epoch=epoch)) for epoch in later
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._cursor.epoch

    def step(self) -> None:
        """Mark the end of a training step's kernels; optional, makes the meter exact."""
        self._meter.step()

    def report(self) -> Report:
        """What was measured so far, as a frozen value."""
        if self._pass is None:
            return self._meter.report()
        return self._meter.report(
            stages=self._pass.engine.stage_reports(),
            edges=self._pass.engine.edge_reports(),
            errors=self._pass.faults.report(),
        )

    def close(self) -> None:
        """Stop threads, close the store; idempotent.  A closed run cannot go on."""
        self._closed = True
        self._rows = iter(())
        if self._pass is not None:
            self._pass.close()

    # ---- state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able: where the next batch starts, and what they belong to."""
        return {
            **self._identity(),
            "epoch": self._cursor.epoch,
            "position": self._cursor.position,
            "quarantined": self._quarantined_now(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, with any number of ranks; `StateError` where
        it belongs to other data, another order or another version."""
        if self._pass is not None:
            raise StateError("load_state_dict must come before the first batch of a run")
        differences = [
            f"{name} is {state.get(name)!r}, this run has {value!r}"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        if differences:
            raise StateError(f"the state does not fit this run: {'; '.join(differences)}")
        cursor = Cursor(epoch=_natural(state, "epoch"), position=_natural(state, "position"))
        self._spec.plan.check(cursor)
        self._quarantined = [int(sample) for sample in state.get("quarantined", ())]
        self._cursor = cursor

    def _identity(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "dataset": self._spec.source.digest,
            **self._spec.plan.identity(),
        }

    def _quarantined_now(self) -> list[int]:
        return sorted(self._pass.faults.quarantined) if self._pass else self._quarantined

    # ---- iteration -------------------------------------------------------------------

    def _next_item(self) -> dict[str, Any]:
        if self._finished:
            raise StopIteration
        current = self._started()
        self._meter.enter()
        item = current.engine.get()
        if item is None:
            self._finish()
            raise StopIteration
        if isinstance(item, Failure):
            self.close()
            raise item.error
        return self._hand_over(item)

    def _started(self) -> _Pass:
        if self._closed:
            raise PipelineError("this run is closed; start another one with pipeline.run()")
        if self._pass is None:
            self._pass = _Pass(self._spec, self._delivery, self._cursor, self._quarantined)
            weakref.finalize(self, self._pass.close)
            self._pass.engine.start()
        return self._pass

    def _hand_over(self, item: Chunk | Parcel) -> dict[str, Any]:
        if isinstance(item, Parcel):
            batch = item.batch
            self._meter.handoff(spans=item.spans, ready=batch.ready, num_samples=batch.num_samples)
            batch.handed_over()
            self._move_to(item.task, len(item.task.ids))
            return batch.columns
        self._meter.handoff(spans=item.spans, num_samples=len(item.samples))
        self._rows = self._row_by_row(item.task, item.samples)
        return {}

    def _row_by_row(self, task: Task, samples: Samples) -> Iterator[dict[str, Any]]:
        places = {int(sample): place for place, sample in enumerate(task.ids)}
        for row in range(len(samples)):
            is_last = row == len(samples) - 1
            self._move_to(task, len(task.ids) if is_last else places[int(samples.ids[row])] + 1)
            yield samples.row(row)

    def _move_to(self, task: Task, num_samples: int) -> None:
        self._cursor = self._spec.plan.after(task.entry, task.first + num_samples)

    def _finish(self) -> None:
        self._finished = True
        self._meter.finish()
        self.close()


class _Pass:
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
        self._store = spec.open_store()
        self.engine = Engine(
            spec.plan.tasks(cursor),
            spec.stages(self._store, delivery),
            seed=spec.plan.order.sequence.seed,
            pads=spec.plan.order.tail == "pad",
            faults=self.faults,
            delivery=delivery,
        )

    def close(self) -> None:
        self.engine.close()
        if self._delivery is not None:
            self._delivery.close()
        if self._owns_store:
            self._store.close()


def _natural(state: Mapping[str, Any], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise StateError(f"state[{name!r}] is {value!r}; it must be a whole number >= 0")
    return value

"""One pass over a pipeline, as the user's training loop sees it.

Stands at the end of the flow, in the consumer's thread.  Invariant: `state_dict` speaks of
what was delivered, never of what is prefetched; `close` leaves no thread and no descriptor.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from iopipe.autotune.tuner import Tuner, Tuning
from iopipe.engine import Chunk, Engine, Failure, Item, Parcel
from iopipe.errors import PipelineError, StateError
from iopipe.knobs import PipelineKnobs
from iopipe.ledger import Header, LedgerWriter, Record
from iopipe.meter.loader_model import model_of_run
from iopipe.meter.meter import Meter
from iopipe.meter.ranks import RankMeter, RankStalls
from iopipe.meter.report import Report, StorageUse
from iopipe.meter.spans import Span
from iopipe.one_pass import Pass, RunSpec, TuneSpec
from iopipe.order import Cursor
from iopipe.parts import Part, parts_of
from iopipe.plan import Task, mean_sample_bytes
from iopipe.progress import Progress, place_of, state_of
from iopipe.protocols import Int64Array, Samples

STATE_VERSION = 1


class Run:
    """Context manager and iterator over batches, or over samples where none are batched.

    Threads start with the first `next`.  Batches are the caller's: their memory goes back
    to the run's slots only when the last tensor over it is gone.  Not thread-safe: one
    consumer.
    """

    def __init__(self, spec: RunSpec, *, cursor: Cursor) -> None:
        self._spec = spec
        self._progress = self._progress_from(cursor)
        self._early: list[Parcel] = []
        """Of the next epoch, while this one still lacks a batch."""
        self._quarantined: list[int] = []
        self._delivery = spec.delivery() if spec.delivery else None
        self._meter = self._new_meter(None)
        self._pass: Pass | None = None
        self._ledger: LedgerWriter | None = None
        self._delivered_bytes = self._num_delivered = 0
        """As they lie in the storage, and samples; counted where the ceiling is known."""
        self._knobs: PipelineKnobs | None = None
        self._tuner: Tuner | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._parts: Iterator[Part] = iter(())
        """Of a parcel of several batches, those that are to come."""
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
        try:
            if self._delivery is not None:
                return self._next_item()
            while (row := next(self._rows, None)) is None:
                self._next_item()
            return row
        except StopIteration:
            raise
        except Exception:  # nothing comes after the first error
            self.close()
            raise

    def __len__(self) -> int:
        """Batches left from the current place to the last epoch's end."""
        plan = self._spec.plan
        if plan.end_epoch is None:
            raise TypeError("a run without end has no length; give num_epochs")
        if self._spec.delivery is None:
            raise TypeError("a run over samples has no length in batches; add batch(n)")
        here = self._progress.cursor
        if here.epoch >= plan.end_epoch:
            return 0
        later = (Cursor(epoch=epoch) for epoch in range(here.epoch + 1, plan.end_epoch))
        num_batches = plan.num_batches(here) - self._progress.num_batches_ahead
        return num_batches + sum(plan.num_batches(cursor) for cursor in later)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._progress.cursor.epoch

    def step(self) -> None:
        """Mark the end of a training step's kernels; optional, makes the meter exact."""
        self._meter.step()

    def report(self, *, predict: bool = True) -> Report:
        """What was measured so far, as a frozen value.

        Predicting what changes would bring takes some tenths of a second of this thread's time:
        while it trains, ask with `predict=False`."""
        if self._pass is None:
            return self._meter.report()
        stages, edges = self._pass.engine.stage_reports(), self._pass.engine.edge_reports()
        report = self._meter.report(
            stages=stages,
            edges=edges,
            errors=self._pass.faults.report(),
            storage=self._storage_use(),
            model=model_of_run(stages, edges) if predict else None,
        )
        return replace(report, notes=self._pass.notes())

    def _storage_use(self) -> StorageUse | None:
        ceiling, totals = self._spec.ceiling, self._meter.totals()
        if ceiling is None or not totals.wall_ns or not self._num_delivered:
            return None
        sample_bytes = self._delivered_bytes / self._num_delivered
        return StorageUse(
            bytes_per_second=sample_bytes * totals.num_samples * 1e9 / totals.wall_ns,
            ceiling_bytes_per_second=ceiling.bytes_per_second,
            how=ceiling.how,
        )

    def tuning(self) -> Tuning:
        """What `tune="auto"` has found so far, and why; after the run as well."""
        if self._tuner is None:
            raise PipelineError('nothing was tuned: give run(tune="auto") and take a batch')
        return self._tuner.found()

    def compare_ranks(self, ranks: RankMeter) -> None:
        """Tell the other ranks of a training what this one starves, from the first batch on;
        all of them do: see `rank_stalls`."""
        if self._pass is not None:
            raise PipelineError("compare_ranks must come before the first batch of a run")
        self._meter = self._new_meter(ranks)

    def rank_stalls(self) -> RankStalls | None:
        """What each rank starved and cost the others, after `compare_ranks`.  Waits for the
        device and for the other ranks: all call it, after the same number of steps."""
        return self._meter.rank_stalls()

    def close(self) -> None:
        """Stop threads, close the store; idempotent.  A closed run cannot go on."""
        self._closed = True
        self._rows = iter(())
        self._parts = iter(())
        self._early.clear()
        if self._ledger is not None:
            self._ledger.close()
        if self._pass is not None:
            self._pass.close()

    # ---- state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able: what has been delivered, and what it belongs to.

        All ranks save after the same number of batches, and none before all have theirs: on a
        GPU the host of one may be ahead of another's, so wait for a step's gradient exchange
        first, as reading the model's parameters does.  With `in_order=False` on several
        ranks each has its own part: `merge_states` makes one state of them.
        """
        cursor = self._progress.cursor
        return {
            **self._identity(),
            **self._progress.state(),
            **self._spec.plan.details(cursor),
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
        cursor = place_of(state)
        self._spec.plan.check(cursor)
        end = self._spec.plan.end_epoch
        if end is not None and cursor.epoch > end:
            raise StateError(
                f"the state stands in epoch {cursor.epoch}, this run ends before epoch {end}: "
                f"give run(epoch={cursor.epoch}), or more num_epochs"
            )
        self._quarantined = [int(sample) for sample in state.get("quarantined", ())]
        self._progress = self._progress_from(cursor)

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
        worked_ns = time.thread_time_ns()  # waiting takes no processor time
        if (part := next(self._parts, None)) is not None:
            return self._hand_over_part(part, (), worked_ns)
        item = self._next_of_epoch(current.engine)
        if item is None:
            self._finish()
            raise StopIteration
        if isinstance(item, Failure):
            self.close()
            raise _as_seen_by_loops(item.error)
        return self._hand_over(item, worked_ns)

    def _started(self) -> Pass:
        if self._closed:
            raise PipelineError("this run is closed; start another one with pipeline.run()")
        if self._pass is None:
            cursor = self._progress.cursor
            if self._spec.ledger is not None:
                self._ledger = self._begun_ledger(self._spec.ledger)
            self._pass = Pass(self._spec, self._delivery, cursor, self._quarantined)
            weakref.finalize(self, self._pass.close)
            with self._spec.near() if self._spec.near else nullcontext():
                self._pass.engine.start()
            if self._spec.tune is not None:
                self._begin_tuning(self._spec.tune, self._pass)
        return self._pass

    def _begin_tuning(self, spec: TuneSpec, current: Pass) -> None:
        self._knobs = PipelineKnobs(
            current.engine,
            workers=current.workers,
            ahead=current.ahead,
            chunk=spec.chunk,
            sample_bytes=mean_sample_bytes(self._spec.source),
            is_pinned=spec.is_pinned,
        )
        self._tuner = Tuner(
            self._knobs,
            self._meter.totals,
            budget=spec.budget,
            shape=spec.shape,
            on_change=self._meter.forget_steps,
        )

    def _hand_over(self, item: Chunk | Parcel, worked_ns: int) -> dict[str, Any]:
        """`worked_ns`: what this thread had worked when the item was asked for."""
        if isinstance(item, Parcel):
            self._parts = parts_of(item, self._spec.batch_size)
            return self._hand_over_part(next(self._parts), item.spans, worked_ns)
        take_ns = time.thread_time_ns() - worked_ns
        self._meter.handoff(spans=item.spans, num_samples=len(item.samples), take_ns=take_ns)
        self._rows = self._row_by_row(item.task, item.samples)
        return {}

    def _hand_over_part(self, part: Part, spans: Sequence[Span], worked_ns: int) -> dict[str, Any]:
        take_ns = time.thread_time_ns() - worked_ns
        self._meter.handoff(
            spans=spans, ready=part.ready, num_samples=len(part.ids), take_ns=take_ns
        )
        part.handed_over()
        self._delivered(part.task, part.first, part.last, part.ids, part.planned)
        if self._tuner is not None and self._knobs is not None:
            self._knobs.saw(part.columns, len(part.ids))
            self._tuner.step()
        return part.columns

    def _row_by_row(self, task: Task, samples: Samples) -> Iterator[dict[str, Any]]:
        in_order = task.ids.tolist()  # a mixture, or the tail, may hold a sample twice
        start = 0
        if not len(samples):
            planned = task.ids[: task.num_valid]
            self._delivered(task, task.first, task.first + len(task.ids), samples.ids, planned)
        for row in range(len(samples)):
            is_last = row == len(samples) - 1
            end = len(in_order) if is_last else in_order.index(int(samples.ids[row]), start) + 1
            planned = task.ids[start : min(end, task.num_valid)]
            is_valid = samples.valid is None or samples.valid[row]
            ids = samples.ids[row : row + 1] if is_valid else planned[:0]
            found = samples.row(row)
            self._delivered(task, task.first + start, task.first + end, ids, planned)
            start = end
            yield found

    def _delivered(
        self, task: Task, first: int, last: int, ids: Int64Array, planned: Int64Array
    ) -> None:
        """This rank's samples first .. last - 1 are done: `ids` of those `planned`."""
        if self._ledger is not None:  # first: what cannot be logged is not handed over
            in_order = self._spec.window is None
            record = Record(
                epoch=task.epoch,
                first=first,
                num_planned=last - first,
                position=self._spec.plan.position_after(task.entry, last) if in_order else 0,
                ids=ids,
                left_out=_without(planned, ids),
            )
            self._ledger.append(record)
        self._progress.record(task.entry, first, last)
        if self._spec.ceiling is not None:
            self._num_delivered += len(ids)
            self._delivered_bytes += sum(part.length for part in self._spec.source.ranges(planned))

    def _begun_ledger(self, folder: str | os.PathLike[str]) -> LedgerWriter:
        spec = self._spec
        header = Header(
            identity=self._identity(),
            num_samples=len(spec.source),
            **spec.plan.share(),
            in_order=spec.window is None,
            entry=state_of(self._progress.cursor),
        )
        return LedgerWriter(folder, header)

    def _new_meter(self, ranks: RankMeter | None) -> Meter:
        return Meter(self._delivery.events if self._delivery else None, ranks=ranks)

    def _progress_from(self, cursor: Cursor) -> Progress:
        return Progress(self._spec.plan, cursor, in_order=self._spec.window is None)

    def _next_of_epoch(self, engine: Engine) -> Item | None:
        """The next item; those of the next epoch wait until this one is complete."""
        epoch = self._progress.cursor.epoch
        for number, parcel in enumerate(self._early):
            if parcel.task.epoch == epoch:
                return self._early.pop(number)
        while True:
            item = engine.get()
            if not isinstance(item, Parcel) or item.task.epoch == epoch:
                return item
            self._early.append(item)

    def _finish(self) -> None:
        self._finished = True
        self._meter.finish()
        self.close()


def _as_seen_by_loops(error: BaseException) -> BaseException:
    """An error of a stage; StopIteration would end a `for` over the run as if all were well, and
    is told as a generator's is (PEP 479)."""
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError("a function of the pipeline raised StopIteration: use next(iterator, None)")
    told.__cause__ = error
    return told


def _without(planned: Int64Array, ids: Int64Array) -> Int64Array:
    """`planned` less `ids`, one for one: a mixture may hold a sample twice."""
    if len(planned) == len(ids):
        return planned[:0]
    missing = Counter(planned.tolist()) - Counter(ids.tolist())
    return np.array(sorted(missing.elements()), np.int64)

"""The drop-in: torch's DataLoader, fed by iopipe's workers.

Stands where `torch.utils.data.DataLoader` stands in a training script.  Invariant: with
iopipe's own options left alone it does what torch's does, batch by batch and error by error.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from iopipe.autotune.budget import Budget, system_budget
from iopipe.autotune.tuner import Tuner, Tuning
from iopipe.errors import PipelineError, StateError
from iopipe.loaders.workers.device import DeviceIter, Mover, delivery_for
from iopipe.loaders.workers.iterator import SerialIter, WorkersIter
from iopipe.loaders.workers.samplers import EpochProgress, OrderSampler
from iopipe.loaders.workers.seeds import SeededDataset
from iopipe.loaders.workers.tuned import LoaderKnobs
from iopipe.meter.meter import Meter
from iopipe.meter.report import Report

T_co = TypeVar("T_co", covariant=True)

STATE_VERSION = 1
_NOTHING = object()


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """`torch.utils.data.DataLoader` with its whole signature; see there for it.

    Worker processes write batches into shared slabs instead of sending tensor by tensor; a
    batch's memory is used again once its last tensor is gone.  Besides:

    - `device`: batches arrive on that device, through page-locked slots and a copy stream.
    - `meter`: False measures nothing; else `report()` says what the training loop waited for.
    - `worker_mode`: 'process', or 'thread' for datasets that let go of the interpreter lock.
      Threads share the global random generators: draw from `get_worker_info().rng`.
    - `seed`: with `shuffle`, the order is iopipe's, keyed by (seed, epoch), and split among
      the ranks of torch.distributed; random draws of a map-style dataset are keyed by
      (seed, epoch, index): the same for any number of worker processes, and after a resume.
      Persistent workers then begin the next epoch before this one has been handed over.
    - `numa`: 'auto' gives workers the CPUs of this rank's part of the machine that are nearest
      to the GPU of `device`, and their slabs its node's memory; see `iopipe topology`.
    - `tune`: 'auto' changes while it runs how many batches each worker fetches ahead, and where
      workers are threads and `seed` is given also how many there are, within what the system
      lets it take or a `Budget`; see `tuning()`.  Batches stay what they are, where threads draw
      from `sample_generator()`.  Processes stay as many as `num_workers` says: the dataset and
      `worker_init_fn` are told their number.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        device: str | None = None,
        numa: Literal["auto"] | None = None,
        meter: bool | None = None,
        tune: Literal["auto"] | Budget | None = None,
        worker_mode: Literal["process", "thread"] = "process",
        seed: int | None = None,
    ) -> None:
        _refuse(worker_mode=worker_mode, numa=numa)
        _refuse_tuning(tune, dataset, num_workers=num_workers, meter=meter)
        self.device = device
        self.numa = numa
        self.meter = meter
        self.tune = tune
        self.worker_mode = worker_mode
        self.seed = seed
        if seed is not None and not isinstance(dataset, IterableDataset):
            if isinstance(dataset, SeededDataset):  # a loader made again from one's attributes
                dataset = dataset.inner
            if shuffle and sampler is None and batch_sampler is None:
                sampler = OrderSampler(dataset, seed=seed, rank=None, world=None)  # type: ignore[arg-type]
                shuffle = None
            dataset = SeededDataset(dataset, seed, seeds_globals=worker_mode == "process")  # type: ignore[assignment]
        self.progress = EpochProgress()
        self.running_meter: Meter | None = None
        self._restored: Mapping[str, Any] | None = None
        self.next_epoch = 0
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        self._delivery = delivery_for(device)
        self._mover: Mover | None = None
        self.knobs: LoaderKnobs | None = None
        self._tuner: Tuner | None = None
        if tune is not None:
            assert self.prefetch_factor is not None
            self.knobs = LoaderKnobs(
                prefetch_factor=self.prefetch_factor,
                num_workers=num_workers,
                may_resize=worker_mode == "thread" and seed is not None,
            )

    # ---- iteration -------------------------------------------------------------------

    def __iter__(self) -> Any:
        state, self._restored = self._restored, None
        if state is None or state["finished"]:
            self._begin(EpochProgress(epoch=self._epoch_to_come(), num_workers=self.num_workers))
            return self._iterated()
        return self._resumed(state)

    def _epoch_to_come(self) -> int:
        """The next one, unless the sampler was told of another, by a framework or the script."""
        told = getattr(self.sampler, "epoch", None) if hasattr(self.sampler, "set_epoch") else None
        if self.seed is None or not isinstance(told, int) or told == self.progress.epoch:
            return self.next_epoch
        return told

    def _begin(self, progress: EpochProgress) -> None:
        if self.seed is not None and hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(progress.epoch)
        progress.rng = self._rng_state()
        progress.sampler = _state_of(self._stateful_sampler())
        self.progress, self.next_epoch = progress, progress.epoch + 1
        if self._tuner is not None:
            self._tuner.pause()
        if self.meter is not False and self.running_meter is None:
            self.running_meter = Meter(self._delivery.events if self._delivery else None)
            if self.knobs is not None:
                self._tuner = Tuner(
                    self.knobs,
                    self.running_meter.totals,
                    budget=self.tune if isinstance(self.tune, Budget) else system_budget(),
                    on_change=self.running_meter.forget_steps,
                )

    def _iterated(self) -> Any:
        if self._delivery is None:
            return super().__iter__()
        if self._mover is not None and self.persistent_workers:
            self._mover.join()  # it may still take batches from the iterator that begins anew
        progress, meter = self.progress, self.running_meter
        # Counted and measured where batches are handed over, not where they are made.
        self.progress, self.running_meter = replace(progress), None
        inner = super().__iter__()
        progress.draws_seed = self.progress.draws_seed
        self.progress, self.running_meter = progress, meter
        iterator = DeviceIter(
            inner, self._delivery, progress=progress, meter=meter, on_batch=self.on_batch
        )
        self._mover = iterator.mover
        return iterator

    def _resumed(self, state: Mapping[str, Any]) -> Any:
        """The rest of the epoch that `state` was taken in."""
        skipped = state["num_yielded"]
        progress = EpochProgress(
            epoch=state["epoch"],
            num_yielded=skipped,
            num_skipped=skipped,
            is_resumed=True,
            num_workers=state["num_workers"],
            draws_seed=state.get("draws_seed", True),
        )
        sampler = self._stateful_sampler()
        if state["sampler"] is not None and sampler is not None:
            sampler.load_state_dict(state["sampler"])
        now = self._rng_state()
        self._set_rng_state(_decoded(state["rng"]))
        try:
            self._begin(progress)
            iterator = self._iterated()
        finally:
            if self.generator is None:  # the program's own is the program's to restore
                self._set_rng_state(now)
        if isinstance(self.dataset, IterableDataset):
            _replay(iterator, skipped)
            progress.num_yielded = skipped
        return iterator

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return SerialIter(self)
        self.check_worker_number_rationality()
        return WorkersIter(self)

    # ---- state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able: what the latest iteration has handed over.

        Map-style datasets continue with any number of workers; iterable ones with the same,
        by going through what was handed over again.  Neither does within an epoch whose batches
        came out of order (`in_order=False`).
        """
        progress = self.progress
        is_within = not progress.is_finished and progress.rng is not None
        rng = progress.rng if is_within and progress.rng is not None else self._rng_state()
        return {
            "version": STATE_VERSION,
            "kind": "iterable" if isinstance(self.dataset, IterableDataset) else "map",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_workers": progress.num_workers if is_within else self.num_workers,
            "draws_seed": progress.draws_seed,
            "in_order": self.in_order or self.num_workers == 0,
            "epoch": progress.epoch,
            "num_yielded": progress.num_yielded,
            "finished": not is_within,
            "rng": base64.b64encode(rng.numpy().tobytes()).decode(),
            "sampler": progress.sampler,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration continue where `state` was taken; an empty one changes
        nothing.  `StateError` says what does not fit."""
        if not state:
            return
        own = self.state_dict()
        names = ["version", "kind", "seed", "batch_size"]
        if own["kind"] == "iterable":
            names.append("num_workers")
        differences = [
            f"{name} is {state.get(name)!r}, this loader has {own[name]!r}"
            for name in names
            if state.get(name) != own[name]
        ]
        if differences:
            raise StateError(f"the state does not fit this loader: {'; '.join(differences)}")
        for name in ("epoch", "num_yielded", "num_workers"):
            value = state.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise StateError(f"state[{name!r}] is {value!r}; it must be a whole number >= 0")
        if lacking := [name for name in ("finished", "rng", "sampler") if name not in state]:
            raise StateError(f"the state lacks {', '.join(lacking)}: it is none of a loader's")
        is_within = not state["finished"] and state["num_yielded"] > 0
        if is_within and not state.get("in_order", True):
            raise StateError(
                "the state was saved within an epoch whose batches came out of order, so that it "
                "does not say which: load one from the end of an epoch, or use in_order=True"
            )
        self._restored = dict(state)
        self.next_epoch = state["epoch"]
        if state["finished"]:
            started = state["num_yielded"] or state["epoch"] or state.get("sampler")
            self.next_epoch = state["epoch"] + 1 if started else 0
            if self.generator is not None:
                self._set_rng_state(_decoded(state["rng"]))

    def set_epoch(self, epoch: int) -> None:
        """Tell sampler and dataset which epoch comes next, as DistributedSampler has it."""
        self.next_epoch = epoch
        batch_sampler: Any = self.batch_sampler
        inner = getattr(batch_sampler, "sampler", None)
        places: list[Any] = [self.sampler, batch_sampler, inner, self.dataset]
        for place in {id(place): place for place in places}.values():
            if hasattr(place, "set_epoch"):
                place.set_epoch(epoch)

    def report(self) -> Report:
        """What was measured so far, over all iterations."""
        if self.running_meter is None:
            raise PipelineError("nothing was measured: iterate first, and without meter=False")
        return self.running_meter.report()

    @property
    def on_batch(self) -> Callable[[Any], None] | None:
        """What is told of every batch that is handed over; does not know the loader, whose
        workers end with its last reference."""
        if self._tuner is None or self.knobs is None:
            return None
        return partial(_told, self.knobs, self._tuner)

    def tuning(self) -> Tuning:
        """What `tune` has found so far, over all iterations, and why."""
        if self._tuner is None:
            raise PipelineError('nothing was tuned: give tune="auto" and iterate')
        return self._tuner.found()

    def close(self) -> None:
        """End persistent workers now; idempotent.  The next iteration starts others."""
        iterator: Any = self._iterator
        self._iterator = None
        if self._mover is not None and iterator is not None:
            self._mover.join()
        if iterator is not None:
            iterator._shutdown_workers()

    def __enter__(self) -> DataLoader[T_co]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- what a state is made of -----------------------------------------------------

    def _stateful_sampler(self) -> Any:
        places = (self.batch_sampler, self.sampler)
        return next((one for one in places if hasattr(one, "load_state_dict")), None)

    def _rng_state(self) -> torch.Tensor:
        generator = self.generator
        return torch.get_rng_state() if generator is None else generator.get_state()

    def _set_rng_state(self, state: torch.Tensor) -> None:
        if self.generator is None:
            torch.set_rng_state(state)
        else:
            self.generator.set_state(state)


def _refuse(*, worker_mode: str, numa: object) -> None:
    if worker_mode not in ("process", "thread"):
        raise PipelineError(f"worker_mode is {worker_mode!r}: give 'process' or 'thread'")
    if numa not in (None, "auto"):
        raise PipelineError(f"numa is {numa!r}: give 'auto' or None")


def _refuse_tuning(tune: object, dataset: object, *, num_workers: int, meter: bool | None) -> None:
    """Where `tune` could not be honoured."""
    if tune is None:
        return
    if not (tune == "auto" or isinstance(tune, Budget)):
        raise PipelineError(f"tune is {tune!r}: give 'auto', a Budget or None")
    if isinstance(dataset, IterableDataset):
        raise PipelineError(
            "tune needs a map-style dataset: an iterable one shares its samples among its workers"
        )
    if num_workers == 0:
        raise PipelineError("tune needs workers: give num_workers of 1 or more")
    if meter is False:
        raise PipelineError("tune judges by the meter: leave meter=False out")


def _told(knobs: LoaderKnobs, tuner: Tuner, batch: Any) -> None:
    knobs.saw(batch)
    tuner.step()


def _state_of(sampler: Any) -> dict[str, Any] | None:
    return None if sampler is None else dict(sampler.state_dict())


def _decoded(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _replay(iterator: Any, num_batches: int) -> None:
    for number in range(num_batches):
        if next(iterator, _NOTHING) is _NOTHING:
            raise StateError(
                f"the dataset ended after {number} of the {num_batches} batches that the state "
                "has seen: it is another dataset"
            )

"""Iterators of the drop-in DataLoader: torch's, over workers and channels of our own.

Stands between `DataLoader` and the workers.  Invariant: the contract of iteration (order,
seeds, time-outs, retirement, errors) is torch's own code; what is exchanged is how a worker is
started and how its batches travel.
"""

from __future__ import annotations

import functools
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterDataPipe, MapDataPipe
from torch.utils.data import _utils as torch_utils
from torch.utils.data import dataloader as torch_dataloader

from iopipe.loaders.workers.ahead import Ahead, next_epoch
from iopipe.loaders.workers.channels import IndexQueue, ResultQueue, ResultSender, end_with
from iopipe.loaders.workers.death import causes_of_death, oom_kills
from iopipe.loaders.workers.messages import SlabCollate
from iopipe.loaders.workers.nearby import bind_worker, binding_for
from iopipe.loaders.workers.samplers import EpochProgress, Skipping
from iopipe.loaders.workers.seeds import SeededDataset
from iopipe.loaders.workers.slabs import Arena
from iopipe.loaders.workers.start import CANNOT_BE_SENT, start_method
from iopipe.loaders.workers.threads import (
    ThreadIndexQueue,
    ThreadQueue,
    ThreadTask,
    ThreadWorker,
)
from iopipe.meter.meter import Meter, num_samples_of
from iopipe.meter.spans import Span
from iopipe.topology import Binding

if TYPE_CHECKING:
    from iopipe.loaders.dataloader import DataLoader


_log = logging.getLogger(__name__)


class Counted:
    """Counts and measures what an iterator hands over; stands in front of torch's iterator."""

    progress: EpochProgress
    meter: Meter | None
    on_batch: Callable[[Any], None] | None

    def __next__(self) -> Any:
        if self.meter is None:
            return self._counted()
        self.meter.enter()
        start_ns = time.perf_counter_ns()
        try:
            batch = self._counted()
        except StopIteration:
            self.meter.finish()
            raise
        span = Span("loader", "loader", start_ns, time.perf_counter_ns())
        self.meter.handoff(spans=(span,), num_samples=num_samples_of(batch))
        if self.on_batch is not None:
            self.on_batch(batch)
        return batch

    def _counted(self) -> Any:
        try:
            batch = super().__next__()  # type: ignore[misc]
        except StopIteration:
            self.progress.is_finished = True
            raise
        self.progress.num_yielded += 1
        return batch


class SerialIter(Counted, torch_dataloader._SingleProcessDataLoaderIter):
    """Without workers."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        self.progress, self.meter, self.on_batch = loader.progress, loader.running_meter, None
        self._index_sampler = _skipping(self, loader)
        self._sampler_iter = iter(self._index_sampler)

    def _next_data(self) -> Any:
        if isinstance(self._dataset, SeededDataset):
            self._dataset.epoch = self.progress.epoch
        return super()._next_data()  # type: ignore[no-untyped-call]


class WorkersIter(Counted, torch_dataloader._MultiProcessingDataLoaderIter):
    """With worker processes or threads."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        torch_dataloader._BaseDataLoaderIter.__init__(self, loader)
        self._prefetch_factor = loader.prefetch_factor
        self._in_order = loader.in_order
        assert self._prefetch_factor is not None and self._prefetch_factor > 0
        self.progress, self.meter = loader.progress, loader.running_meter
        self.on_batch = loader.on_batch
        self._knobs = loader.knobs
        self._num_active = self._num_workers
        if self._knobs is not None:
            self._prefetch_factor, self._num_active = self._knobs.wanted
            self._num_workers = max(self._num_workers, self._num_active)
        self._index_sampler = _skipping(self, loader)
        self._worker_init_fn = loader.worker_init_fn
        if isinstance(self._dataset, IterDataPipe | MapDataPipe):
            self._worker_init_fn = functools.partial(
                torch_dataloader._sharding_worker_init_fn,
                loader.worker_init_fn,
                self._world_size,
                self._rank,
            )
        self._worker_pids_set = False
        self._shutdown = False
        self._ahead: Ahead | None = None
        """The epoch after that of `progress`, once batches of it are under way."""
        self._runs_ahead = self._persistent_workers and self._in_order
        self._index_queues: list[Any] = []
        self._workers: list[Any] = []
        self._num_oom_kills = oom_kills()
        self._binding = binding_for(
            loader.numa, device=loader.device, num_workers=self._num_workers
        )
        self._life: Connection | None = None
        if loader.worker_mode == "thread":
            self._start_threads()
        else:
            self._start_processes(loader)
        self._begin_pinning()
        if loader.worker_mode == "process":
            pids = tuple(worker.pid for worker in self._workers)
            torch_utils.signal_handling._set_worker_pids(id(self), pids)  # type: ignore[attr-defined]
            torch_utils.signal_handling._set_SIGCHLD_handler()
            self._worker_pids_set = True
        self._reset(loader, first_iter=True)

    def _start_threads(self) -> None:
        self._worker_result_queue: Any = ThreadQueue()
        self._workers_done_event: Any = threading.Event()
        for worker_id in range(self._num_workers):
            self._start_thread(worker_id)

    def _start_thread(self, worker_id: int) -> None:
        indices = ThreadIndexQueue()
        worker = ThreadWorker(
            ThreadTask(
                kind=self._dataset_kind,
                dataset=self._dataset,
                indices=indices,
                results=self._worker_result_queue,
                done=self._workers_done_event,
                auto_collation=self._auto_collation,
                collate_fn=self._collate_fn,
                drop_last=self._drop_last,
                base_seed=int(self._base_seed),
                shared_seed=self._shared_seed,
                init_fn=self._worker_init_fn,
                worker_id=worker_id,
                num_workers=self._num_workers,
                binding=self._binding,
                times=None if self._knobs is None else self._knobs.times,
            )
        )
        worker.start()
        self._index_queues.append(indices)
        self._workers.append(worker)

    def _start_processes(self, loader: DataLoader[Any]) -> None:
        if loader.multiprocessing_context is not None:
            self._start_all(loader.multiprocessing_context)
            return
        method = start_method()
        try:
            self._start_all(torch.multiprocessing.get_context(method))
        except CANNOT_BE_SENT as error:
            if method == "fork":
                raise
            _log.info("workers are forked: the dataset cannot be sent to them (%s)", error)
            self._start_all(torch.multiprocessing.get_context("fork"))

    def _start_all(self, context: Any) -> None:
        self._index_queues.clear()
        self._workers.clear()
        self._worker_result_queue = ResultQueue()
        self._workers_done_event = context.Event()
        life, self._life = Pipe(duplex=False)
        for worker_id in range(self._num_workers):
            indices = IndexQueue(context.Queue())
            indices.cancel_join_thread()
            receiver, sender = Pipe(duplex=True)
            arguments = (
                self._binding,
                life,
                (self._life, receiver) if context.get_start_method() == "fork" else (),
                sender,
                self._dataset_kind,
                self._dataset,
                indices,
                self._workers_done_event,
                self._auto_collation,
                self._collate_fn,
                self._drop_last,
                self._base_seed,
                self._worker_init_fn,
                worker_id,
                self._num_workers,
                self._persistent_workers,
                self._shared_seed,
            )
            worker = context.Process(target=_work, args=arguments)
            worker.daemon = True
            worker.start()
            sender.close()
            self._worker_result_queue.add(receiver, indices.freed.append)
            self._index_queues.append(indices)
            self._workers.append(worker)
        life.close()

    def _begin_pinning(self) -> None:
        if not self._pin_memory:
            self._data_queue = self._worker_result_queue
            return
        if isinstance(self._worker_result_queue, ResultQueue):
            self._worker_result_queue.allow_put()
        self._pin_memory_thread_done_event = threading.Event()
        self._data_queue = queue.Queue()
        self._pin_memory_thread = threading.Thread(
            target=torch_utils.pin_memory._pin_memory_loop,
            args=(
                self._worker_result_queue,
                self._data_queue,
                torch.accelerator.current_device_index(),
                self._pin_memory_thread_done_event,
                self._pin_memory_device,
            ),
            daemon=True,
        )
        self._pin_memory_thread.start()
        if self._persistent_workers:
            self._register_persistent_workers_atexit()

    # ---- turned while it runs --------------------------------------------------------

    def _counted(self) -> Any:
        if self._knobs is not None:
            self._turn(*self._knobs.wanted)
        return super()._counted()

    def _turn(self, prefetch_factor: int, num_workers: int) -> None:
        """Threads that are too many are given nothing to do any more."""
        if (prefetch_factor, num_workers) == (self._prefetch_factor, self._num_active):
            return
        self._prefetch_factor, self._num_active = prefetch_factor, num_workers
        while len(self._workers) < num_workers:
            self._num_workers += 1
            self._start_thread(len(self._workers))
            self._index_queues[-1].epoch = self._index_queues[0].epoch
            self._workers_status.append(True)
            self._workers_num_tasks.append(0)
        self._worker_queue_idx_cycle = itertools.cycle(range(num_workers))
        for _ in range(prefetch_factor * num_workers - len(self._task_info)):
            self._try_put_index()

    def _try_put_index(self) -> None:
        """Not more than shall be under way: less than before, where fewer were asked for."""
        most = self._prefetch_factor * self._num_active
        if self._knobs is None or len(self._task_info) < most:
            super()._try_put_index()

    # ---- epoch after epoch -----------------------------------------------------------

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        self.progress = self._index_sampler.progress = loader.progress
        if not first_iter and self._takes_up_ahead():
            return
        self._ahead = None
        self._begin_epoch(self.progress.epoch)
        if not self.progress.is_resumed:
            self.progress.draws_seed = first_iter
        super()._reset(loader, first_iter)

    def _takes_up_ahead(self) -> bool:
        ahead = self._ahead
        if ahead is None or self._rcvd_idx != ahead.first_task:
            return False
        if not ahead.is_for(self._index_sampler.inner, self.progress):
            return False
        self._ahead = None
        self._num_yielded = 0
        for _ in range(self._prefetch_factor * self._num_workers - len(self._task_info)):
            self._try_put_index()  # epochs shorter than what is prefetched left room
        return True

    def _next_index(self) -> Any:
        """The indices of the next batch, or of the next epoch's where it is known already."""
        try:
            return super()._next_index()  # type: ignore[no-untyped-call]
        except StopIteration:
            if self._ahead is not None or not self._runs_ahead:
                raise
            self._ahead = next_epoch(
                self._index_sampler.inner, epoch=self.progress.epoch, first_task=self._send_idx
            )
            if self._ahead is None:
                raise
        self._sampler_iter = self._ahead.indices
        self._begin_epoch(self._ahead.epoch)
        return super()._next_index()  # type: ignore[no-untyped-call]

    def _next_data(self) -> Any:
        if self._ahead is not None and self._rcvd_idx >= self._ahead.first_task:
            raise StopIteration
        return super()._next_data()  # type: ignore[no-untyped-call]

    def _begin_epoch(self, epoch: int) -> None:
        """What is sent to the workers from now on is for this epoch."""
        for indices in self._index_queues:
            indices.epoch = epoch

    def _try_get_data(self, timeout: float = torch_utils.MP_STATUS_CHECK_INTERVAL) -> Any:
        try:
            return super()._try_get_data(timeout)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if self._worker_pids_set and "DataLoader worker" in str(error):
                causes = causes_of_death(self._workers, self._num_oom_kills)
                raise RuntimeError(f"{error}; {causes}" if causes else str(error)) from error
            raise

    def _mark_worker_as_unavailable(self, worker_id: int, shutdown: bool = False) -> None:
        if isinstance(self._worker_result_queue, ResultQueue):
            self._worker_result_queue.let_go(worker_id)
        super()._mark_worker_as_unavailable(worker_id, shutdown)

    def _shutdown_workers(self) -> None:
        if not self._shutdown and hasattr(self, "_worker_result_queue") and not self._pin_memory:
            self._worker_result_queue.close()  # who still sends is let go
        if self._life is not None:
            self._life.close()
        super()._shutdown_workers()


def _skipping(iterator: Any, loader: DataLoader[Any]) -> Skipping:
    """In the place of the sampler, of which torch has asked for an iterator already."""
    return Skipping(
        iterator._index_sampler,
        loader.progress,
        begun=iterator._sampler_iter,
        generator=loader.generator,
    )


def _work(
    binding: Binding | None,
    life: Connection,
    inherited: tuple[Connection, ...],
    sender: Connection,
    kind: Any,
    dataset: Any,
    indices: IndexQueue,
    done: Any,
    auto_collation: bool,
    collate_fn: Any,
    *rest: Any,
) -> None:
    """A worker process: torch's loop, between our channels."""
    bind_worker(binding, rest[3])
    for connection in inherited:
        connection.close()  # a fork's copies of the trainer's ends, which would keep them open
    threading.Thread(target=end_with, args=(life,), daemon=True).start()
    arena = indices.arena = Arena()
    if auto_collation and collate_fn is torch_utils.collate.default_collate:
        collate_fn = SlabCollate(arena)
    if isinstance(dataset, SeededDataset):
        indices.seeded = dataset
    results = ResultSender(sender, arena)
    torch_utils.worker._worker_loop(
        kind, dataset, indices, results, done, auto_collation, collate_fn, *rest
    )

"""Workers that are threads of the trainer's process: nothing is sent, nothing is started.

Stand where worker processes stand.  Invariant: to a dataset they look as worker processes do:
a copy of the dataset each, a `get_worker_info()` each, and generators of their own in it.
"""

from __future__ import annotations

import copy
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import IterDataPipe, _DatasetKind
from torch.utils.data._utils import collate as torch_collate
from torch.utils.data._utils import worker as torch_worker
from torch.utils.data.graph_settings import apply_random_seed

from iopipe.loaders.workers.nearby import bind_thread
from iopipe.loaders.workers.seeds import SeededDataset
from iopipe.loaders.workers.tuned import FetchTimes
from iopipe.topology import Binding

_JOIN_SECONDS = 5.0
"""How long the end of the program waits for the sample that a thread works on."""


class ThreadQueue(queue.Queue[Any]):
    """A queue with the methods that torch calls on those of multiprocessing."""

    def cancel_join_thread(self) -> None:
        """There is no thread to wait for."""

    def close(self) -> None:
        """Nothing is held."""


class ThreadIndexQueue(ThreadQueue):
    """Indices for one worker, each with the epoch that it was put for."""

    epoch = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put((item, self.epoch), block, timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTask:
    """What one worker needs to know."""

    kind: Any
    dataset: Any
    indices: ThreadIndexQueue
    results: ThreadQueue
    done: threading.Event
    auto_collation: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool
    base_seed: int
    shared_seed: int | None
    """The same in all workers; only data pipes have one."""
    init_fn: Callable[[int], None] | None
    worker_id: int
    num_workers: int
    binding: Binding | None
    times: FetchTimes | None
    """Told of every fetch, where somebody wants to know."""


class ThreadWorker:
    """One thread, with the attributes that torch reads of a worker process."""

    def __init__(self, task: ThreadTask) -> None:
        self.pid = os.getpid()
        self._task = task
        self._thread = threading.Thread(
            target=_loop, args=(task,), name=f"iopipe-worker-{task.worker_id}", daemon=True
        )
        self.daemon = True

    def start(self) -> None:
        _make_worker_info_local()
        self._thread.start()
        # Also where the program ends in the middle of an epoch: the interpreter cuts threads
        # off wherever they are, and inside torch that aborts the process.
        self.end_with_program = weakref.finalize(self, _end, self._task, self._thread)

    @property
    def exitcode(self) -> int | None:
        """None until the thread has ended, then 0: its errors travel as results."""
        is_over = self._thread.ident is not None and not self._thread.is_alive()
        return 0 if is_over else None

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def terminate(self) -> None:
        """A thread cannot be ended: it ends itself after the sample that it works on."""


def _end(task: ThreadTask, thread: threading.Thread) -> None:
    task.done.set()
    task.indices.put(None)
    if thread is not threading.current_thread():
        thread.join(_JOIN_SECONDS)


def _loop(task: ThreadTask) -> None:
    bind_thread(task.binding, task.worker_id)
    dataset = _own_copy(task.dataset, task.shared_seed)
    seed = task.base_seed + task.worker_id
    state = np.random.SeedSequence([task.worker_id, task.base_seed]).generate_state(4)
    torch_worker._iopipe_here.info = torch_worker.WorkerInfo(  # type: ignore[attr-defined]
        id=task.worker_id,
        num_workers=task.num_workers,
        seed=seed,
        dataset=dataset,
        rng=torch_worker._RNG(
            random.Random(seed), torch.Generator().manual_seed(seed), np.random.default_rng(state)
        ),
        worker_method="thread",
    )
    where = f"in DataLoader worker process {task.worker_id} (a thread)"
    failure: ExceptionWrapper | None = None
    try:
        if task.init_fn is not None:
            task.init_fn(task.worker_id)
        fetcher = _fetcher(task, dataset)
    except Exception:
        failure = ExceptionWrapper(where=where)  # type: ignore[no-untyped-call]
    is_over = False
    while True:
        item, epoch = task.indices.get()
        if item is None:
            return
        if isinstance(item, torch_worker._ResumeIteration):
            task.results.put((item, None))
            is_over = False
            dataset = _seeded(dataset, item.seed)
            fetcher = _fetcher(task, dataset)
            continue
        if task.done.is_set() or is_over:
            continue
        number, indices = item
        if failure is not None:
            task.results.put((number, failure))
            failure = None
            continue
        if isinstance(dataset, SeededDataset):
            dataset.epoch = epoch
        start_ns = time.perf_counter_ns(), time.thread_time_ns()
        try:
            result = fetcher.fetch(indices)
        except Exception as error:
            is_over = isinstance(error, StopIteration) and task.kind == _DatasetKind.Iterable
            result = (
                torch_worker._IterableDatasetStopIteration(task.worker_id)
                if is_over
                else ExceptionWrapper(where=where)  # type: ignore[no-untyped-call]
            )
        if task.times is not None:
            busy_ns, core_ns = time.perf_counter_ns(), time.thread_time_ns()
            task.times.add(busy_ns - start_ns[0], core_ns - start_ns[1])
        task.results.put((number, result))
        del item, indices, result


def _own_copy(dataset: Any, shared_seed: int | None) -> Any:
    """Of data pipes the whole graph, since iterating changes each of them; of others the object
    alone: what it refers to (arrays, readers) is shared, which is why threads are used."""
    if isinstance(dataset, IterDataPipe):
        return _seeded(copy.deepcopy(dataset), shared_seed)
    return copy.copy(dataset)


def _seeded(dataset: Any, shared_seed: int | None) -> Any:
    """Data pipes that shuffle do it alike in all workers."""
    if not isinstance(dataset, IterDataPipe) or shared_seed is None:
        return dataset
    return apply_random_seed(dataset, torch.Generator().manual_seed(shared_seed))


def _fetcher(task: ThreadTask, dataset: Any) -> Any:
    collate = task.collate_fn
    if collate is torch_collate.default_collate:
        collate = _collate_in_place
    return _DatasetKind.create_fetcher(  # type: ignore[no-untyped-call]
        task.kind, dataset, task.auto_collation, collate, task.drop_last
    )


def _stacked(batch: Any, *, collate_fn_map: Any = None) -> torch.Tensor:
    first = batch[0]
    if type(first) is torch.Tensor and first.layout == torch.strided and not first.is_nested:
        return torch.stack(batch, 0)
    stacked: torch.Tensor = torch_collate.collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
    return stacked


def _collate_in_place(batch: Any) -> Any:
    """torch's `default_collate` without the shared memory that it takes in a worker."""
    return torch_collate.collate(
        batch, collate_fn_map={**torch_collate.default_collate_fn_map, torch.Tensor: _stacked}
    )


def _here_or_global() -> Any:
    """Runs as the body of torch's `get_worker_info`, with that module's names."""
    return getattr(_iopipe_here, "info", None) or _worker_info  # type: ignore[name-defined]  # noqa: F821


def _make_worker_info_local() -> None:
    """Let torch's `get_worker_info` answer each thread for itself.

    torch keeps the info in a global of its module, one a process.  The function's code is
    exchanged, so that those who have imported the function see it too; outside of worker
    threads it answers what it did before.
    """
    if not hasattr(torch_worker, "_iopipe_here"):
        torch_worker._iopipe_here = threading.local()  # type: ignore[attr-defined]
        torch_worker.get_worker_info.__code__ = _here_or_global.__code__

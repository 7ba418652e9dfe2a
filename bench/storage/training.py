"""Accelerators that train at once on one storage: readers, steps, a barrier after each.

Stands between `emulation` and a `Store`.  Invariant: a step begins when its batch is complete and
the step before has ended on all accelerators, as with synchronous data parallelism.

As DLIO does it with torch's DataLoader: each reading thread brings whole batches, in turns, and is
at most `PREFETCH` of them ahead; a sample that was read is not kept (DLIO resizes it).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from iopipe.bench.storage.accelerator import Accelerator
from iopipe.bench.storage.utilisation import Epoch
from iopipe.bench.storage.workloads import Workload
from iopipe.errors import StorageError
from iopipe.protocols import ByteRange, Store

PREFETCH = 2
_PATIENCE_SECONDS = 0.1
"""After which a thread that waits for another one looks whether it is all over."""

Batch = Sequence[ByteRange]


def train(
    store: Store,
    samples: Sequence[ByteRange],
    workload: Workload,
    accelerators: Sequence[Accelerator],
    *,
    num_steps: int,
    seed: int,
) -> list[Epoch]:
    """One epoch of `num_steps` steps on each accelerator."""
    plans = batches(len(samples), workload.batch_size, len(accelerators), num_steps, seed=seed)
    barrier = threading.Barrier(len(accelerators))
    stop = threading.Event()

    def one(rank: int) -> Epoch:
        mine = [[samples[index] for index in batch] for batch in plans[rank]]
        trainer = _Trainer(store, workload, accelerators[rank], barrier, stop)
        return trainer.run(mine)

    with ThreadPoolExecutor(len(accelerators), "iopipe-accelerator") as pool:
        futures = [pool.submit(one, rank) for rank in range(len(accelerators))]
        try:
            return [future.result() for future in futures]
        except threading.BrokenBarrierError:
            errors = [future.exception() for future in futures]
            first = next(e for e in errors if not isinstance(e, threading.BrokenBarrierError))
            assert first is not None
            raise first from None
        finally:
            stop.set()
            barrier.abort()


def batches(
    num_samples: int, batch_size: int, num_ranks: int, num_steps: int, *, seed: int
) -> list[list[list[int]]]:
    """[rank][step][place in the batch]: shuffled, and shuffled again where the samples do not
    last; ranks take turns."""
    draws = np.random.default_rng(seed)
    wanted = batch_size * num_ranks * num_steps
    rounds = [draws.permutation(num_samples) for _ in range(-(-wanted // num_samples))]
    order = np.concatenate(rounds)[:wanted].reshape(num_steps, num_ranks, batch_size)
    return [order[:, rank].tolist() for rank in range(num_ranks)]


class _Trainer:
    """One accelerator and its reading threads."""

    def __init__(
        self,
        store: Store,
        workload: Workload,
        accelerator: Accelerator,
        barrier: threading.Barrier,
        stop: threading.Event,
    ) -> None:
        self._store, self._workload, self._accelerator = store, workload, accelerator
        self._barrier, self._stop = barrier, stop

    def run(self, plan: Sequence[Batch]) -> Epoch:
        compute, load = [], []
        start = time.perf_counter()
        num_threads = min(self._workload.read_threads, len(plan))
        edges: list[queue.Queue[BaseException | None]] = [
            queue.Queue(PREFETCH) for _ in range(num_threads)
        ]
        largest = max(sample.length for batch in plan for sample in batch)
        threads = [
            threading.Thread(target=self._read, args=(plan[n::num_threads], largest, edge))
            for n, edge in enumerate(edges)
        ]
        for thread in threads:
            thread.start()
        try:
            for step in range(len(plan)):
                waited, computed = self._step(edges[step % num_threads])
                load.append(waited)
                compute.append(computed)
        except BaseException:
            self._stop.set()
            self._barrier.abort()
            raise
        finally:
            for thread in threads:
                thread.join()
        return Epoch(start=start, end=time.perf_counter(), compute=compute, load=load)

    def _step(self, edge: queue.Queue[BaseException | None]) -> tuple[float, float]:
        """(seconds waited for the batch, seconds of computation)"""
        asked = time.perf_counter()
        error = self._taken(edge)
        if error is not None:
            raise error
        begun = time.perf_counter()
        self._accelerator.compute(self._workload.compute_seconds)
        ended = time.perf_counter()
        self._barrier.wait()
        return begun - asked, ended - begun

    def _taken(self, edge: queue.Queue[BaseException | None]) -> BaseException | None:
        """What a reading thread hands over: None is a batch."""
        while True:
            try:
                return edge.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                if self._stop.is_set():  # another accelerator failed, and nobody reads any more
                    raise threading.BrokenBarrierError from None

    def _read(
        self, plan: Sequence[Batch], largest: int, edge: queue.Queue[BaseException | None]
    ) -> None:
        try:
            scratch = self._accelerator.scratch(largest)
            for batch in plan:
                for sample in batch:
                    if self._stop.is_set():
                        return
                    self._bring(sample, scratch[: sample.length])
                self._hand_over(edge, None)
        except BaseException as error:
            self._hand_over(edge, error)

    def _bring(self, sample: ByteRange, room: memoryview) -> None:
        count = self._store.read_into(sample.path, sample.offset, room)
        if count != sample.length:
            raise StorageError(
                f"{sample.path!r} gave {count} of {sample.length} bytes at {sample.offset}: "
                "it changed while it was read"
            )
        self._accelerator.deliver(room)

    def _hand_over(
        self, edge: queue.Queue[BaseException | None], value: BaseException | None
    ) -> None:
        while not self._stop.is_set():
            try:
                edge.put(value, timeout=_PATIENCE_SECONDS)
            except queue.Full:
                continue
            return


def largest_passing(passes: Callable[[int], bool], *, most: int) -> int:
    """The largest number for which `passes` holds, 0 where it holds for none; it is taken to
    hold for all below one for which it holds.  Doubles, then halves what is open."""
    low, high = 0, 1
    while high <= most and passes(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return low

"""The local engine: worker processes on this machine, one pipe each.

Stands between a job and its workers.  Invariant: a worker that dies costs its item only,
which another worker repeats; when the engine is closed no process is left.

Workers take about 0.3 s to import what they need, so the first ones are started before
there is anything to do, while the source is opened, and they stay for all passes of a job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from iopipe.errors import WorkerError
from iopipe.jobs.reading import Job
from iopipe.jobs.work import Item

_MAX_DEATHS = 3
"""So many workers may die over one item."""
_PATIENCE_SECONDS = 10.0
_EARLY_WORKERS = 2
"""Small jobs have no use for more."""
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "OMP_NUM_THREADS": "1",
}
"""What workers get unless the user says otherwise.  glibc's malloc (mallopt(3)) keeps its
memory: samples come and go by megabytes, and given back each time their pages are faulted in
again, 3,000 to 5,000 for 100 MB of photographs.  There is a worker for each CPU, so none of
them needs the threads that BLAS and others start for each CPU on import."""


class _Process:
    """A worker, the job it knows and the item that it works on."""

    def __init__(self) -> None:
        self.item: Item | None = None
        self.job: Job | None = None
        self.pipe, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            # -P: what lies in the current folder is no module of ours.  A worker that is still
            # importing when Ctrl-C comes need not say so: the signal waits for its handler.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "iopipe.jobs.worker", str(descriptor)],
                    pass_fds=[descriptor],
                    stdin=subprocess.DEVNULL,
                    env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def start(self, job: Job, item: Item) -> None:
        self.item = item
        try:
            if job is not self.job:
                self.pipe.send(job)
                self.job = job
            self.pipe.send(item)
        except (BrokenPipeError, ConnectionResetError):
            return  # it died; waiting for its answer says so

    def cause_of_death(self) -> str:
        code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class LocalEngine:
    """Up to `num_workers` processes, until it is closed."""

    def __init__(self, *, num_workers: int, is_early: bool = True) -> None:
        """`is_early` starts the first workers now: it is known that they will be needed."""
        self._num_workers = num_workers
        num_early = min(num_workers, _EARLY_WORKERS) if is_early else 0
        self._processes = [_Process() for _ in range(num_early)]

    def run(self, job: Job, items: Iterable[Item]) -> Iterator[Any]:
        """The results as they come.  An error of an item ends the run; the death of a worker
        does only when three have died over the same item."""
        waiting = iter(items)
        again: list[Item] = []
        deaths: dict[Item, int] = {}
        while True:
            self._feed(job, waiting, again)
            busy = {p.pipe: p for p in self._processes if p.item is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process = busy[pipe]
                item, process.item = process.item, None
                assert item is not None
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):  # it died, perhaps while it was answering
                    self._bury(process, item, deaths)
                    again.append(item)
                    continue
                if kind == "failed":
                    raise value
                yield value

    def close(self) -> None:
        """End all workers; what they are writing is discarded.  Those that are done with their
        items leave by themselves, as the end of the pipe tells them."""
        for process in self._processes:
            process.pipe.close()
            if process.item is not None or process.job is None:
                process.process.terminate()
        for process in self._processes:
            try:
                process.process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.process.wait()
        self._processes.clear()

    def _feed(self, job: Job, waiting: Iterator[Item], again: list[Item]) -> None:
        """An item for every idle worker; workers are started as they are needed."""
        idle = [process for process in self._processes if process.item is None]
        while idle or len(self._processes) < self._num_workers:
            item = again.pop() if again else next(waiting, None)
            if item is None:
                return
            if idle:
                process = idle.pop()
            else:
                process = _Process()
                self._processes.append(process)
            process.start(job, item)

    def _bury(self, process: _Process, item: Item, deaths: dict[Item, int]) -> None:
        self._processes.remove(process)
        process.pipe.close()
        cause = process.cause_of_death()
        deaths[item] = deaths.get(item, 0) + 1
        if deaths[item] >= _MAX_DEATHS:
            hint = "; was it out of memory?" if cause == "SIGKILL" else ""
            raise WorkerError(
                f"{_MAX_DEATHS} workers died over {item[0]} {item[1]}, the last one, process "
                f"{process.process.pid}, of {cause}{hint}"
            )

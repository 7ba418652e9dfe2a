"""The local engine: worker processes on this machine, one pipe each.

Stands between a job and its workers.  Invariant: a worker that dies costs its item only,
which another worker repeats; when the engine is closed no process is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any

from iopipe.errors import WorkerError
from iopipe.jobs.task import Job
from iopipe.jobs.work import Item

_MAX_DEATHS = 3
"""So many workers may die over one item."""
_PATIENCE_SECONDS = 10.0


class _Process:
    """A worker and the item that it works on."""

    def __init__(self, job: Job) -> None:
        self.item: Item | None = None
        self.pipe, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "iopipe.jobs.worker", str(descriptor)],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self.pipe.send(job)

    def start(self, item: Item) -> None:
        self.item = item
        try:
            self.pipe.send(item)
        except (BrokenPipeError, ConnectionResetError):
            return  # it died; waiting for its answer says so

    def cause_of_death(self) -> str:
        code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class LocalEngine:
    """A context manager over `num_workers` processes."""

    def __init__(self, job: Job, *, num_workers: int) -> None:
        self._job = job
        self._num_workers = num_workers
        self._processes: list[_Process] = []

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, items: Iterable[Item]) -> Iterator[Any]:
        """The results as they come.  An error of an item ends the run; the death of a worker
        does only when three have died over the same item."""
        waiting = iter(items)
        again: list[Item] = []
        deaths: dict[Item, int] = {}
        while True:
            self._feed(waiting, again)
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
                except (EOFError, ConnectionResetError):
                    self._bury(process, item, deaths)
                    again.append(item)
                    continue
                if kind == "failed":
                    raise value
                yield value

    def close(self) -> None:
        """End all workers; what they are writing is discarded."""
        for process in self._processes:
            process.pipe.close()
            process.process.terminate()
        for process in self._processes:
            try:
                process.process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.process.wait()
        self._processes.clear()

    def _feed(self, waiting: Iterator[Item], again: list[Item]) -> None:
        """An item for every idle worker; workers are started as they are needed."""
        idle = [process for process in self._processes if process.item is None]
        while idle or len(self._processes) < self._num_workers:
            item = again.pop() if again else next(waiting, None)
            if item is None:
                return
            if idle:
                process = idle.pop()
            else:
                process = _Process(self._job)
                self._processes.append(process)
            process.start(item)

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

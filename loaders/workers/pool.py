"""Worker processes of a pipeline: they read and decode, and write into the slots of its batches.

Stands where the read and the stages of samples stand without them.  Invariant: one request and
one short reply a chunk; arrays of a known shape never pass through the trainer's process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import socket
import threading
import weakref
from collections import deque
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iopipe.errors import PipelineError
from iopipe.loaders.arena import Place, Room
from iopipe.loaders.shared import SharedFile
from iopipe.loaders.workers.channels import ResultQueue
from iopipe.loaders.workers.death import causes_of_death, oom_kills
from iopipe.loaders.workers.program import Failed, Program, Reply, Request, work
from iopipe.loaders.workers.start import CANNOT_BE_SENT, start_method
from iopipe.protocols import Column, Samples
from iopipe.topology import Binding

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 5.0
_CLOSED = "this run is closed; start another one with pipeline.run()"


class WorkerPool:
    """`num_workers` processes, started at once; `apply` is for as many threads.

    `resize` starts more, or lets some go when they are done with what they work on.
    """

    def __init__(
        self, program: Program, *, num_workers: int, binding: Binding | None = None
    ) -> None:
        """`binding` has CPUs for each worker and the node of their memory."""
        self.num_workers = num_workers
        self._binding = binding
        self._num_oom_kills = oom_kills()
        self._is_closed = False
        self._channels: list[_Channel] = []
        self._idle: queue.SimpleQueue[_Channel | None] = queue.SimpleQueue()
        """Where workers wait for a thread; None once there are none."""
        self._life: Connection | None = None
        self._their_life: Connection | None = None
        self._program = program
        self._changing = threading.Lock()
        """Held while workers come or go."""
        self._num_surplus = self._num_started = 0
        self._gone_seconds = 0.0
        """On cores, of workers that were let go."""
        self._start(program, num_workers)

    def apply(self, samples: Samples) -> Samples:
        """The samples with these ids, read and worked on by whoever is free."""
        channel = self._idle.get()
        if channel is None:
            self._idle.put(None)
            raise PipelineError(_CLOSED)
        try:
            return channel.work(samples)
        except _Gone as error:
            raise self._death(channel) from error.__cause__
        finally:
            self._give_back(channel)

    def resize(self, num_workers: int) -> None:
        with self._changing:
            if self._is_closed:
                return
            wanted, self.num_workers = num_workers - self.num_workers, num_workers
            self._num_surplus -= wanted
            more, self._num_surplus = max(0, -self._num_surplus), max(0, self._num_surplus)
            for _ in range(more):
                self._add_anyhow(start_method())

    def cpu_seconds(self) -> float:
        with self._changing:
            pids = [channel.process.pid for channel in self._channels if not self._is_closed]
        return self._gone_seconds + sum(map(_core_seconds, pids))

    def close(self) -> None:
        """End the processes, in the middle of their work too, and wait for them; idempotent."""
        with self._changing:  # from now on nobody is let go but here
            if self._is_closed:
                return
            self._is_closed = True
        for life in (self._life, self._their_life):
            if life is not None:
                life.close()
        for channel in self._channels:
            channel.hang_up()
        for _ in self._channels:  # each is given back by the thread that waited for it
            if (given_back := self._idle.get()) is not None:
                given_back.close()
        self._idle.put(None)

    def _start(self, program: Program, num_workers: int) -> None:
        method = start_method()
        try:
            self._start_all(method, program, num_workers)
        except CANNOT_BE_SENT as error:
            self.close()
            if method == "fork":
                raise
            _log.info("workers are forked: the pipeline cannot be sent to them (%s)", str(error))
            self._start_all("fork", program, num_workers)

    def _start_all(self, method: str, program: Program, num_workers: int) -> None:
        context: Any = torch.multiprocessing.get_context(method)
        self._channels, self._idle = [], queue.SimpleQueue()
        self._is_closed = False
        self._their_life, self._life = Pipe(duplex=False)
        for _ in range(num_workers):
            self._add(context, program)

    def _add_anyhow(self, method: str) -> None:
        """One more while others work; forked where it cannot be sent, as at the start."""
        try:
            self._add(torch.multiprocessing.get_context(method), self._program)
        except CANNOT_BE_SENT:
            if method == "fork":
                raise
            self._add_anyhow("fork")

    def _add(self, context: Any, program: Program) -> None:
        """One more process."""
        ours, theirs = Pipe(duplex=True)
        earlier = [channel.connection for channel in self._channels]
        is_forked = context.get_start_method() == "fork"
        inherited = (self._life, ours, *earlier) if is_forked else ()
        number, self._num_started = self._num_started, self._num_started + 1
        process = context.Process(
            target=work,
            args=(number, theirs, self._their_life, inherited, program, self._binding),
            name=f"iopipe-worker-{number}",
            daemon=True,
        )
        with theirs:
            process.start()
        self._channels.append(_Channel(process, ours))
        self._idle.put(self._channels[-1])

    def _give_back(self, channel: _Channel) -> None:
        """It waits for the next chunk, or is let go where it is one too many."""
        with self._changing:
            is_surplus = self._num_surplus > 0 and not self._is_closed
            if is_surplus:
                self._num_surplus -= 1
                self._channels.remove(channel)
                self._gone_seconds += _core_seconds(channel.process.pid)
        if not is_surplus:
            self._idle.put(channel)
            return
        channel.hang_up()
        channel.close()

    def _death(self, channel: _Channel) -> PipelineError:
        if self._is_closed:
            return PipelineError(_CLOSED)
        channel.process.join(_JOIN_SECONDS)
        causes = causes_of_death([channel.process], self._num_oom_kills)
        return PipelineError(f"a worker process died: {causes or 'it closed its connection'}")


class _Gone(Exception):
    """The other end of a channel was closed; no error of the worker's own."""


class _Channel:
    """One worker process and what it has been told.  One thread at a time."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self._replies = ResultQueue()
        self._freed_slabs: deque[int] = deque()
        self._replies.add(connection, self._freed_slabs.append)
        self._known_slots: set[int] = set()
        self._gone_slots: deque[int] = deque()

    def work(self, samples: Samples) -> Samples:
        room = samples.allocate if isinstance(samples.allocate, Room) else None
        slot, places = (None, {}) if room is None else room.reserved(len(samples))
        try:
            if self.connection.closed:  # found out by the chunk before
                raise EOFError
            self._ask(samples, None if slot is None else slot.file, places)
            reply = self._replies.get()
        except (queue.Empty, EOFError, ConnectionError) as error:
            raise _Gone from error
        if isinstance(reply, Failed):
            reply.error.add_note(f"in a worker process:\n{reply.where}")
            raise reply.error
        return _received(reply, samples, room, places)

    def hang_up(self) -> None:
        """Whoever waits for a reply, here or there, is told that there is none."""
        with contextlib.suppress(OSError):
            with socket.socket(fileno=os.dup(self.connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """After `hang_up`, when no thread waits here: the process has ended then."""
        self.process.join(_JOIN_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()
        self._replies.close()

    def _ask(self, samples: Samples, file: SharedFile | None, places: dict[str, Place]) -> None:
        is_new = file is not None and file.number not in self._known_slots
        request = Request(
            ids=samples.ids,
            seed=samples.seed,
            epoch=samples.epoch,
            valid=samples.valid,
            slot=None if file is None else file.number,
            new_slot_bytes=file.num_bytes if file is not None and is_new else None,
            places=places,
            freed_slabs=_taken(self._freed_slabs),
            gone_slots=_taken(self._gone_slots),
        )
        self.connection.send_bytes(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        if file is not None and is_new:
            reduction.send_handle(self.connection, file.fd, None)
            self._known_slots.add(file.number)
            weakref.finalize(file, self._gone_slots.append, file.number).atexit = False


def _core_seconds(pid: int) -> float:
    """Of a process so far, see proc_pid_stat(5); 0 for one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _taken(numbers: deque[int]) -> list[int]:
    return [numbers.popleft() for _ in range(len(numbers))]


def _received(reply: Reply, asked: Samples, room: Room | None, places: dict[str, Place]) -> Samples:
    columns: dict[str, Column] = {}
    for name in reply.names:
        if name not in reply.in_slot:
            column = columns[name] = reply.columns[name]
            if room is not None and isinstance(column, np.ndarray):
                room.learn(name, column)
        elif room is not None:
            place = places[name]
            columns[name] = room(name, (len(reply.ids), *place.shape[1:]), place.dtype)
    return Samples(
        ids=reply.ids,
        keys=reply.keys,
        columns=columns,
        seed=asked.seed,
        epoch=asked.epoch,
        valid=reply.valid,
        history=reply.history,
    )

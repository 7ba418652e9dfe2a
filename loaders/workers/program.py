"""What a worker process of a pipeline does: reads and works on the samples it is asked for.

Stands on the other side of `loaders.workers.pool`.  Invariant: a worker keeps no state between
two requests; arrays whose place in the batch's slot is known are written there, and nowhere else.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from iopipe.loaders.arena import Place
from iopipe.loaders.collate import as_column
from iopipe.loaders.workers.channels import ResultSender, end_with, receive_descriptor
from iopipe.loaders.workers.mapping import map_shared
from iopipe.loaders.workers.nearby import Home, bind_worker, home_of_this_thread, settle
from iopipe.loaders.workers.slabs import Arena
from iopipe.protocols import BoolArray, Cause, Column, Int64Array, Samples, Source, Store
from iopipe.stages import Stage
from iopipe.topology import Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Sent to every worker once."""

    source: Source
    open_store: Callable[[], Store]
    stages: tuple[Stage, ...]
    """All that work on samples, after the read."""
    seed: int
    home: Home = field(default_factory=home_of_this_thread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chunk; a descriptor follows where `new_slot_bytes` is given."""

    ids: Int64Array
    seed: int
    epoch: int
    valid: BoolArray | None
    slot: int | None
    """Number of the slot that `places` lie in."""
    new_slot_bytes: int | None
    places: dict[str, Place]
    freed_slabs: list[int]
    gone_slots: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What became of a chunk."""

    ids: Int64Array
    keys: Sequence[str]
    valid: BoolArray | None
    columns: dict[str, Column]
    """Those that are not in the slot."""
    in_slot: tuple[str, ...]
    names: tuple[str, ...]
    """Of all columns, in their order."""
    history: tuple[tuple[str, Cause, int, int], ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An exception, and where the worker raised it."""

    error: Exception
    where: str


def work(
    number: int,
    connection: Connection,
    life: Connection,
    inherited: tuple[Connection, ...],
    program: Program,
    binding: Binding | None,
) -> None:
    """The main function of a worker process; returns when the pool hangs up."""
    settle(program.home)  # before any thread is started or memory is touched
    bind_worker(binding, number)
    for other in inherited:
        other.close()  # a fork's copies of the pool's ends, which would keep them open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool's process ends us
    threading.Thread(target=end_with, args=(life,), daemon=True).start()
    torch.set_num_threads(1)
    _seed(program.seed, number)
    worker = _Worker(connection, program)
    try:
        while worker.serve():
            pass
    finally:
        worker.close()


def _seed(seed: int, number: int) -> None:
    """Forked workers would all draw alike from the global generators."""
    words = np.random.SeedSequence([seed % 2**64, number]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


class _Worker:
    def __init__(self, connection: Connection, program: Program) -> None:
        self._connection = connection
        self._program = program
        self._store: Store | None = None
        self._refusal: Exception | None = None
        """Why there is no store; told to whoever asks for samples."""
        try:
            self._store = program.open_store()
        except Exception as error:
            self._refusal = error
        self._arena = Arena()
        self._results = ResultSender(connection, self._arena)
        self._slots: dict[int, npt.NDArray[np.uint8]] = {}

    def serve(self) -> bool:
        """One request; False once there will be no more."""
        try:
            request: Request = pickle.loads(self._connection.recv_bytes())
            self._take_slots(request)
        except (EOFError, ConnectionResetError):
            return False
        self._arena.give_back(request.freed_slabs)
        answer = self._answer(request)
        try:
            self._results.put(answer)
        except Exception as error:  # something in it cannot be pickled; nothing was sent
            self._results.put(_failed(error))
        return True

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _take_slots(self, request: Request) -> None:
        for number in request.gone_slots:
            self._slots.pop(number, None)
        if request.new_slot_bytes is not None and request.slot is not None:
            fd = receive_descriptor(self._connection)
            try:
                self._slots[request.slot] = map_shared(fd, request.new_slot_bytes)
            finally:
                os.close(fd)

    def _answer(self, request: Request) -> Reply | Failed:
        try:
            return self._reply(request)
        except Exception as error:
            return _failed(error)

    def _reply(self, request: Request) -> Reply:
        if self._store is None:
            assert self._refusal is not None
            raise self._refusal
        rooms = self._rooms(request)
        history: list[tuple[str, Cause, int, int]] = []
        start_ns = time.perf_counter_ns()
        samples = self._program.source.samples(request.ids, self._store)
        samples.seed, samples.epoch, samples.valid = request.seed, request.epoch, request.valid
        history.append(("read", "storage", start_ns, time.perf_counter_ns()))
        for stage in self._program.stages:
            if stage is self._program.stages[-1] and stage.fills:
                samples.allocate = _Allocate(rooms)
            start_ns = time.perf_counter_ns()
            samples = stage.function(samples)
            history.append((stage.name, stage.cause, start_ns, time.perf_counter_ns()))
        columns, in_slot = _placed(samples, rooms)
        return Reply(
            ids=samples.ids,
            keys=samples.keys,
            valid=samples.valid,
            columns=columns,
            in_slot=in_slot,
            names=tuple(samples.columns),
            history=tuple(history),
        )

    def _rooms(self, request: Request) -> dict[str, npt.NDArray[Any]]:
        if request.slot is None:
            return {}
        payload = self._slots[request.slot]
        return {name: place.view(payload) for name, place in request.places.items()}


@dataclass(frozen=True, slots=True)
class _Allocate:
    """Rows in the slot where the column is one that was expected."""

    rooms: dict[str, npt.NDArray[Any]]

    def __call__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        room = self.rooms.get(name)
        return (
            np.empty(shape, dtype)
            if room is None or not _fits(room, shape, dtype)
            else (room[: shape[0]])
        )


def _fits(room: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return room.dtype == dtype and room.shape[1:] == shape[1:] and shape[0] <= room.shape[0]


def _placed(
    samples: Samples, rooms: dict[str, npt.NDArray[Any]]
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """(columns that have to be sent, names of those that are in the slot)."""
    sent: dict[str, Column] = {}
    in_slot = []
    for name in samples.columns:
        column = as_column(samples, name)
        room = rooms.get(name)
        if not isinstance(column, np.ndarray) or room is None:
            sent[name] = column
            continue
        if not _fits(room, column.shape, column.dtype):
            sent[name] = column
            continue
        rows = room[: len(column)]
        if rows.ctypes.data != column.ctypes.data:
            rows[...] = column
        in_slot.append(name)
    return sent, tuple(in_slot)


def _failed(error: Exception) -> Failed:
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failed(error, where)

"""Whose input held up all the others: stalls of every rank, step by step.

Stands beside the meter of each rank.  Invariant: nobody waits for an answer; a step costs the
job what its slowest rank lost, once, however many ranks waited for it.

A rank that waits for another one waits inside a collective, where its stream is busy: it sees
no stall of its own.  Only the rank that starves does, so per step the largest one is charged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from iopipe.errors import WorkerError
from iopipe.meter.report import NOT_INPUT
from iopipe.protocols import Int64Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStalls:
    """Over the steps that all ranks have told of."""

    num_steps: int
    stall_seconds: tuple[float, ...]
    """Of each rank by itself."""
    charged_seconds: tuple[float, ...]
    """What each rank cost the job: its stall in the steps where it was the largest, ties to
    the lower rank."""
    ranks: tuple[int, ...] = ()
    """Their numbers; empty: from 0 on."""

    @property
    def straggler(self) -> int:
        """The rank that cost most."""
        place = int(np.argmax(self.charged_seconds))
        return self.ranks[place] if self.ranks else place

    @property
    def lost_seconds(self) -> float:
        """What the stalls of all ranks together cost the job."""
        return sum(self.charged_seconds)

    def __str__(self) -> str:
        lost, most = self.lost_seconds, max(self.charged_seconds)
        if not lost:
            return "no rank starved"
        return (
            f"rank {self.straggler} is the straggler: {most:.2f} s of the {lost:.2f} s that "
            f"starved ranks cost the job ({100 * most / lost:.0f} %)"
        )


def charge(stalls_ns: Int64Array, ranks: Sequence[int] = ()) -> RankStalls:
    """`stalls_ns` [ranks, steps]: what each rank stood idle for its input in each step;
    `ranks`: their numbers, where they are not 0, 1, 2 and so on."""
    return replace(_stalls(stalls_ns.shape[1], *_totals(stalls_ns)), ranks=tuple(ranks))


def _totals(stalls_ns: Int64Array) -> tuple[Int64Array, Int64Array]:
    """[ranks]: what each lost, and what each cost."""
    charged = np.zeros(len(stalls_ns), np.int64)
    np.add.at(charged, np.argmax(stalls_ns, axis=0), stalls_ns.max(axis=0))
    return stalls_ns.sum(axis=1), charged


def _stalls(num_steps: int, lost_ns: Int64Array, charged_ns: Int64Array) -> RankStalls:
    return RankStalls(
        num_steps=num_steps,
        stall_seconds=tuple((lost_ns / 1e9).tolist()),
        charged_seconds=tuple((charged_ns / 1e9).tolist()),
    )


class Gather(Protocol):
    """One exchange under way."""

    def done(self) -> bool: ...

    def answer(self) -> Int64Array:
        """[ranks, steps]; waits for it.  `WorkerError` where a rank has left."""
        ...


class Exchange(Protocol):
    """Sends this rank's numbers to all others, in the background."""

    def start(self, stalls_ns: Sequence[int]) -> Gather: ...


class TorchExchange:
    """All-gather over a process group of its own, on the CPU (gloo): beside the training's
    collectives, in no order with them.  Every rank makes one, at the same place."""

    def __init__(self) -> None:
        import torch.distributed as distributed

        self._distributed: Any = distributed
        self._group = distributed.new_group(backend="gloo")
        self._world = distributed.get_world_size()

    def start(self, stalls_ns: Sequence[int]) -> Gather:
        import torch

        mine = torch.tensor(list(stalls_ns), dtype=torch.int64)
        answers = [torch.zeros_like(mine) for _ in range(self._world)]
        work = self._distributed.all_gather(answers, mine, group=self._group, async_op=True)
        return _TorchGather(work, answers, mine)


@dataclass(frozen=True, slots=True)
class _TorchGather:
    work: Any
    answers: list[Any]
    mine: Any
    """Kept alive: the background reads from it."""

    def done(self) -> bool:
        return bool(self.work.is_completed())

    def answer(self) -> Int64Array:
        try:
            self.work.wait()
        except RuntimeError as error:  # gloo's own words for a connection that broke
            raise WorkerError(
                f"the stalls of the other ranks did not come ({error}): has one of them ended?"
            ) from error
        return np.stack([answer.numpy() for answer in self.answers])


class RankMeter:
    """Collects the stalls of this rank and exchanges them every `interval` steps.

    Every rank adds the same number of steps, as every data-parallel loop does.  A rank that
    stops early leaves the last exchange unanswered; it is then left out, and no other is begun:
    what becomes of the training is not decided here.
    """

    def __init__(self, exchange: Exchange, *, interval: int = 100) -> None:
        """`ValueError` where `interval` is below 1."""
        if interval < 1:
            raise ValueError(f"interval is {interval}: give at least 1 step")
        self._exchange = exchange
        self._interval = interval
        self._collected: list[int] = []
        self._pending: deque[Gather] = deque()
        self._lost_ns: Int64Array = np.zeros(1, np.int64)
        self._charged_ns: Int64Array = np.zeros(1, np.int64)
        self._num_steps = 0
        self._is_over = False

    def add(self, started_ns: int, ended_ns: int, causes: Mapping[str, int]) -> None:
        """One step of this rank, as a `History` of the meter hears it; never waits."""
        stall_ns = sum(part for cause, part in causes.items() if cause not in NOT_INPUT)
        self._collected.append(stall_ns)
        if len(self._collected) == self._interval:
            self._send()
        self._harvest()

    def report(self) -> RankStalls | None:
        """Over the exchanges that have come back; None before the first."""
        self._harvest()
        if not self._num_steps:
            return None
        return _stalls(self._num_steps, self._lost_ns, self._charged_ns)

    def straggler(self) -> str:
        """The report in words; empty before the first exchange, and where there is one rank."""
        found = self.report()
        return str(found) if found is not None and len(found.stall_seconds) > 1 else ""

    def finish(self) -> RankStalls | None:
        """The report over all steps, those of an unfinished interval too.  Waits for the other
        ranks: all of them call it, after the same number of steps."""
        if self._collected:
            self._send()
        self._harvest(waits=True)
        return self.report()

    def _send(self) -> None:
        if not self._is_over:
            self._pending.append(self._exchange.start(self._collected))
        self._collected = []

    def _harvest(self, *, waits: bool = False) -> None:
        while self._pending and (waits or self._pending[0].done()):
            try:
                stalls_ns = self._pending.popleft().answer()
            except WorkerError as error:
                _log.warning("ranks are compared no longer: %s", error)
                self._is_over = True
                self._pending.clear()
                return
            lost_ns, charged_ns = _totals(stalls_ns)
            self._num_steps += stalls_ns.shape[1]
            self._lost_ns = self._lost_ns + lost_ns
            self._charged_ns = self._charged_ns + charged_ns

"""Stalls of several ranks: who is charged, and that nobody waits to find out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st

from iopipe.meter.ranks import Gather, RankMeter, TorchExchange, charge
from iopipe.protocols import Int64Array


@given(
    table=st.integers(1, 4).flatmap(
        lambda world: st.lists(
            st.lists(st.integers(0, 10**9), min_size=world, max_size=world), min_size=1, max_size=9
        )
    )
)
def test_each_step_costs_its_largest_stall_once(table: list[list[int]]) -> None:
    stalls = charge(np.array(table, np.int64).T)
    charged = [0] * len(table[0])
    for row in table:
        charged[row.index(max(row))] += max(row)
    assert stalls.charged_seconds == tuple(total / 1e9 for total in charged)
    assert stalls.lost_seconds == pytest.approx(sum(map(max, table)) / 1e9)
    assert stalls.stall_seconds == tuple(sum(column) / 1e9 for column in zip(*table, strict=True))
    assert stalls.straggler == charged.index(max(charged))


def test_the_straggler_is_named_with_what_it_cost() -> None:
    stalls = charge(np.array([[0, 10**9, 0], [2 * 10**9, 10**9, 2 * 10**9]], np.int64))
    assert str(stalls) == (
        "rank 1 is the straggler: 4.00 s of the 5.00 s that starved ranks cost the job (80 %)"
    )


@dataclass(slots=True)
class Late:
    """An answer that comes when the test lets it."""

    stalls: list[int]
    is_done: bool = False

    def done(self) -> bool:
        return self.is_done

    def answer(self) -> Int64Array:
        assert self.is_done, "asked for before it was there"
        return np.array([self.stalls, [2 * one for one in self.stalls]], np.int64)


@dataclass(slots=True)
class Mailbox:
    sent: list[Late] = field(default_factory=list)

    def start(self, stalls_ns: Sequence[int]) -> Gather:
        self.sent.append(Late(list(stalls_ns)))
        return self.sent[-1]


def test_nobody_waits_for_an_answer() -> None:
    mailbox = Mailbox()
    meter = RankMeter(mailbox, interval=10)
    for step in range(35):
        meter.add(0, 100, {"decode": step, "launch": 50})
    assert [len(one.stalls) for one in mailbox.sent] == [10, 10, 10]
    assert meter.report() is None
    mailbox.sent[1].is_done = True  # the second came back first: it waits for its turn
    assert meter.report() is None
    mailbox.sent[0].is_done = True
    report = meter.report()
    assert report is not None
    assert report.num_steps == 20
    assert report.charged_seconds == (0.0, pytest.approx(2 * sum(range(20)) / 1e9))
    with pytest.raises(ValueError, match="interval is 0"):
        RankMeter(mailbox, interval=0)


def _trained(rank: int) -> Iterator[str]:
    yield ""  # from here on there is a group
    meter = RankMeter(TorchExchange(), interval=4)
    for step in range(12):
        meter.add(0, 1_000_000, {"h2d": 1000 * (step + 1) if rank == 1 else 0})
        # The training's own collective, in between.
        total = torch.tensor([float(rank)])
        torch.distributed.all_reduce(total)
        assert total.item() == 1
    is_known = torch.zeros(1)
    while not is_known:  # what was sent comes; nobody leaves before the other knows, too
        report = meter.report()
        is_known.fill_(report is not None and report.num_steps == 12)
        torch.distributed.all_reduce(is_known, torch.distributed.ReduceOp.MIN)
    yield repr(report)


def test_two_processes_agree_on_the_straggler(tmp_path: Path) -> None:
    first, second = run_ranks(_trained, tmp_path)
    assert first == second
    assert "charged_seconds=(0.0, 7.8e-05)" in first
    assert "num_steps=12" in first

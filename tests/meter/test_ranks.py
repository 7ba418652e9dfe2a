"""Stalls of several ranks: who is charged, and that nobody waits to find out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.ranks import run_ranks
from fakes.source import numbers
from hypothesis import given
from hypothesis import strategies as st

import iopipe
from iopipe.errors import PipelineError, WorkerError
from iopipe.meter.meter import Meter
from iopipe.meter.ranks import Gather, RankMeter, RankStalls, TorchExchange, charge
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


def test_ranks_have_their_own_numbers_and_nobody_is_blamed_for_nothing() -> None:
    second_node = charge(np.array([[0, 10**9], [0, 2 * 10**9]], np.int64), [8, 11])
    assert second_node.straggler == 11
    assert str(second_node).startswith("rank 11 is the straggler: 2.00 s of the 2.00 s")
    assert str(charge(np.zeros((2, 5), np.int64))) == "no rank starved"


def test_one_rank_is_no_straggler() -> None:
    class Alone:
        def start(self, stalls_ns: Sequence[int]) -> Gather:
            return Only(list(stalls_ns))

    @dataclass(slots=True)
    class Only:
        stalls: list[int]

        def done(self) -> bool:
            return True

        def answer(self) -> Int64Array:
            return np.array([self.stalls], np.int64)

    meter = Meter(ranks=RankMeter(Alone(), interval=1))
    list(meter.watch([1, 2, 3]))
    assert meter.rank_stalls() is not None
    assert meter.report().straggler == ""


@dataclass(slots=True)
class Late:
    """An answer that comes when the test lets it."""

    stalls: list[int]
    is_done: bool = False

    def done(self) -> bool:
        return self.is_done

    waited: bool = False

    def answer(self) -> Int64Array:
        self.waited = not self.is_done
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
    assert not any(one.waited for one in mailbox.sent)
    mailbox.sent[1].is_done = True  # the second came back first: it waits for its turn
    assert meter.report() is None
    mailbox.sent[0].is_done = True
    report = meter.report()
    assert report is not None
    assert report.num_steps == 20
    assert report.charged_seconds == (0.0, pytest.approx(2 * sum(range(20)) / 1e9))
    assert not any(one.waited for one in mailbox.sent)
    with pytest.raises(ValueError, match="interval is 0"):
        RankMeter(mailbox, interval=0)
    finished = meter.finish()  # this one waits, and sends what was left
    assert finished is not None and finished.num_steps == 35
    assert finished.charged_seconds == (0.0, pytest.approx(2 * sum(range(35)) / 1e9))
    assert len(mailbox.sent[3].stalls) == 5
    assert meter.finish() == finished


class Gone:
    """The answer of ranks of which one has ended."""

    def done(self) -> bool:
        return True

    def answer(self) -> Int64Array:
        raise WorkerError("connection closed by peer")


def test_a_rank_that_left_stops_the_comparison_not_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[Gather] = []

    class Line:
        def start(self, stalls_ns: Sequence[int]) -> Gather:
            sent.append(Late(list(stalls_ns), is_done=True) if not sent else Gone())
            return sent[-1]

    meter = RankMeter(Line(), interval=2)
    for _ in range(10):
        meter.add(0, 100, {"decode": 7})
    report = meter.finish()
    assert report is not None and report.num_steps == 2
    assert len(sent) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "ranks are compared no longer: connection closed by peer"
    ]


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


def _with_an_early_end(rank: int) -> Iterator[str]:
    yield ""
    meter = RankMeter(TorchExchange(), interval=2)
    for _ in range(4 if rank == 0 else 2):
        meter.add(0, 100, {"decode": 5})
    if rank == 1:  # leaves in the middle of rank 0's second exchange
        yield "left"
        return
    yield repr(meter.finish())


def test_real_ranks_may_leave_early(tmp_path: Path) -> None:
    first, second = run_ranks(_with_an_early_end, tmp_path)
    assert "num_steps=2" in first and second == "left"


STEP_NS, DELAY_NS, NUM_STEPS = 5_000_000, 40_000_000, 12


def _with_a_straggler(rank: int) -> Iterator[list[object]]:
    """Rank 1's loader is late at every third batch; rank 0 waits for it in the all-reduce,
    whose length is that of the slower one's step."""
    yield []
    now = [0]
    meter = Meter(clock=lambda: now[0], ranks=RankMeter(TorchExchange(), interval=5))

    def loader() -> Iterator[int]:
        for number in range(NUM_STEPS):
            if rank == 1 and number % 3 == 2:
                now[0] += DELAY_NS
            yield number

    for _ in meter.watch(loader()):
        latest = torch.tensor([float(now[0])], dtype=torch.float64)
        torch.distributed.all_reduce(latest, torch.distributed.ReduceOp.MAX)
        now[0] = int(latest) + STEP_NS
        meter.step()
    stalls, report = meter.rank_stalls(), meter.report()
    assert stalls is not None and report.straggler == str(stalls)
    yield [
        stalls.num_steps,
        stalls.charged_seconds,
        stalls.stall_seconds,
        report.attributed_stall_seconds,
    ]


def test_a_late_loader_is_charged_once_and_to_its_rank(tmp_path: Path) -> None:
    injected = DELAY_NS * NUM_STEPS // 3 / 1e9
    first, second = run_ranks(_with_a_straggler, tmp_path)
    for rank, found in enumerate((first, second)):
        num_steps, charged, starved, own = found
        assert num_steps == NUM_STEPS - 1
        assert charged == [0.0, pytest.approx(injected)]
        assert starved == [0.0, pytest.approx(injected)]
        # Rank 0 waited as long, in the all-reduce: that is no starvation of its input.
        assert own == pytest.approx(injected if rank else 0.0)


def _runs_compared(rank: int) -> Iterator[list[object]]:
    yield []
    run = numbers(60).shuffle(1).split().batch(5).run()
    run.compare_ranks(RankMeter(TorchExchange(), interval=3))
    with run:
        for _ in run:
            torch.distributed.barrier()
        with pytest.raises(PipelineError, match="before the first batch"):
            run.compare_ranks(RankMeter(TorchExchange()))
        stalls = run.rank_stalls()
    assert isinstance(stalls, RankStalls)
    loader = iopipe.meter([1, 2, 3], ranks=RankMeter(TorchExchange()))
    assert list(loader) == [1, 2, 3]
    foreign = loader.rank_stalls()
    assert foreign is not None and foreign.num_steps == 2
    yield [stalls.num_steps, len(stalls.stall_seconds), run.report().straggler]


def test_runs_tell_each_other_what_they_starve(tmp_path: Path) -> None:
    first, second = run_ranks(_runs_compared, tmp_path)
    assert first == second
    assert first[:2] == [5, 2] and "is the straggler" in first[2]
    with numbers(3).batch(1).run() as alone:
        assert alone.rank_stalls() is None

"""The audit against a twin of Python counters, on random histories and on damaged ones."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.ledgers import rewrite
from fakes.source import numbers

import iopipe
from iopipe.cli import main
from iopipe.errors import NotFoundError, StateError
from iopipe.ledger import Header, LedgerReader, LedgerWriter, Record
from iopipe.order import (
    BlockShuffle,
    Cursor,
    EpochSequence,
    FullShuffle,
    Mixture,
    Order,
    Stored,
    Tail,
    phases_of,
)
from iopipe.plan import SamplePlan
from iopipe.progress import Progress, merge_states, place_of, state_of


def sequence_of(generator: random.Random) -> tuple[EpochSequence, int]:
    """Any kind of order, and the number of samples of its dataset."""
    num = generator.randint(1, 90)
    kind = generator.choice(["none", "full", "block", "mixture"])
    seed = generator.randint(0, 9)
    if kind == "none":
        return Stored(num_samples=num), num
    if kind == "full":
        return FullShuffle(num_samples=num, seed=seed), num
    if kind == "block":
        return BlockShuffle(
            num_samples=num, seed=seed, block_samples=generator.randint(1, 9), window_blocks=2
        ), num
    parts = tuple(FullShuffle(num_samples=generator.randint(1, 40), seed=n) for n in range(2))
    phases = phases_of(("a", "b"), {0: {"a": 0.7, "b": 0.3}})
    stop = generator.choice(["first", "all"])
    mixture = Mixture(names=("a", "b"), parts=parts, phases=phases, stop=stop, seed=seed)  # type: ignore[arg-type]
    return mixture, sum(part.num_samples for part in parts)


@dataclass
class History:
    """A training that is killed and started again with other numbers of ranks.

    Records are made as a run makes them, and logged; `seen` holds what the model has learnt
    from: at each restart it goes back to what it was when the state was saved.
    """

    folder: Path
    seed: int
    num_epochs: int = 2
    in_order: bool = True
    seen: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How often each (epoch, sample) was delivered or left out."""

    def __post_init__(self) -> None:
        self.generator = random.Random(self.seed)
        self.sequence, self.num_samples = sequence_of(self.generator)
        self.clock = 0

    def run(self, num_crashes: int) -> None:
        cursor, saved = Cursor(), Counter(self.seen)
        for crash in range(num_crashes + 1):
            self.seen = Counter(saved)
            cursor, saved = self._start(cursor, saved, crashes=crash < num_crashes)

    def _start(
        self, cursor: Cursor, saved: Counter[tuple[int, int]], *, crashes: bool
    ) -> tuple[Cursor, Counter[tuple[int, int]]]:
        """Run until a crash, or to the end; where the last state was saved, and what it knew."""
        pick = self.generator
        world, batch_size = pick.randint(1, 4), pick.randint(1, 7)
        tail: Tail = pick.choice(["drop", "wrap", "pad"])
        self.drops = drop_last = tail != "pad" and pick.random() < 0.3
        plans = [
            SamplePlan(
                order=Order(sequence=self.sequence, rank=rank, world=world, tail=tail),
                batch_size=batch_size,
                drop_last=drop_last,
                chunk_samples=batch_size,
                end_epoch=self.num_epochs,
            )
            for rank in range(world)
        ]
        writers = [self._writer(plan, cursor) for plan in plans]
        every, left = pick.randint(1, 4), pick.randint(0, 12) if crashes else 10**9
        progresses = [Progress(plan, cursor, in_order=self.in_order) for plan in plans]
        for step, tasks in enumerate(self._steps(plans, cursor)):
            if step == left:
                # Some ranks come one step further than the others.
                ahead = pick.randint(0, world - 1)
                plans, tasks = plans[:ahead], tasks[:ahead]
            for plan, writer, progress, task in zip(
                plans, writers, progresses, tasks, strict=False
            ):
                self._deliver(plan, writer, progress, task)
            if step == left:
                break
            if step % every == 0:
                states = [json.loads(json.dumps(progress.state())) for progress in progresses]
                merged = states[0] if self.in_order or world == 1 else merge_states(states)
                cursor, saved = place_of(merged), Counter(self.seen)
        for writer in writers:
            writer.close()
        return cursor, saved

    def _steps(self, plans: Sequence[SamplePlan], cursor: Cursor) -> Iterator[list[Any]]:
        """The next batch of each rank; out of order, from among the next three."""
        for epoch in range(cursor.epoch, self.num_epochs):
            entry = cursor if epoch == cursor.epoch else Cursor(epoch=epoch)
            queues = [[task for task in plan.tasks(entry) if task.epoch == epoch] for plan in plans]
            while any(queues):
                yield [
                    queue.pop(0 if self.in_order else self.generator.randrange(min(3, len(queue))))
                    for queue in queues
                ]

    def _writer(self, plan: SamplePlan, cursor: Cursor) -> LedgerWriter:
        self.clock += 1
        header = Header(
            identity={"dataset": "d", **self.sequence.identity()},
            num_samples=self.num_samples,
            **plan.share(),
            in_order=self.in_order,
            entry=state_of(cursor),
            started_ns=self.clock,
        )
        return LedgerWriter(self.folder, header)

    def _deliver(
        self, plan: SamplePlan, writer: LedgerWriter, progress: Progress, task: Any
    ) -> None:
        valid = task.ids[: task.num_valid]
        if plan.order.tail == "wrap":
            valid = task.ids
        bad = valid % 7 == 3  # some samples are damaged
        last = task.first + len(task.ids)
        writer.append(
            Record(
                epoch=task.epoch,
                first=task.first,
                num_planned=len(task.ids),
                position=plan.order.after(task.entry, last).position if self.in_order else 0,
                ids=valid[~bad],
                left_out=valid[bad],
            )
        )
        progress.record(task.entry, task.first, last)
        # What 'wrap' repeats is not new.
        for sample in task.ids[: task.num_valid].tolist():
            self.seen[task.epoch, sample] += 1


def expected(history: History, epoch: int) -> Counter[int]:
    positions = np.arange(history.sequence.num_positions(epoch))
    return Counter(history.sequence.ids(epoch, positions).tolist())


def check(history: History) -> None:
    """The model saw every sample exactly once an epoch, and the audit says so."""
    report = iopipe.audit_ledgers([history.folder])
    assert report.is_exact, (history.seed, report)
    for epoch in report.epochs:
        mine = Counter(
            {sample: n for (e, sample), n in history.seen.items() if e == epoch.epoch and n}
        )
        wanted = expected(history, epoch.epoch)
        assert not mine - wanted
        if epoch.is_finished:
            assert sum((wanted - mine).values()) == epoch.num_dropped
    assert [epoch.epoch for epoch in report.epochs if epoch.is_finished] == list(
        range(history.num_epochs)
    ) or history.sequence.num_positions(0) < 40  # with few samples a whole epoch may be dropped


@pytest.mark.parametrize("part", range(8))
def test_crashes_and_restarts_with_other_worlds(part: int, tmp_path: Path) -> None:
    """2,000 histories, a quarter of them with batches out of order."""
    for seed in range(250 * part, 250 * part + 250):
        history = History(tmp_path / str(seed), seed, in_order=seed % 4 != 0)
        history.run(num_crashes=random.Random(seed).randint(0, 3))
        check(history)


# ---- what it must catch ------------------------------------------------------------------


def plain_run(folder: Path, *, world: int = 2, num_batches: int | None = None) -> list[Path]:
    """Two epochs over 40 numbers, as runs log them."""
    for rank in range(world):
        pipeline = numbers(40).shuffle(3).split(rank, world).batch(4)
        with pipeline.run(num_epochs=2, ledger=folder) as run:
            for number, _ in enumerate(run, 1):
                if number == num_batches:
                    break
    return sorted(folder.iterdir(), key=lambda path: path.name.split("-rank")[1])


def ids_of(path: Path, number: int) -> list[int]:
    return list(LedgerReader(path).records())[number].ids.tolist()


def test_a_lost_batch_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = plain_run(tmp_path)
    lost = ids_of(first, 2)
    rewrite(first, lambda records: records[:2] + records[3:])
    report = iopipe.audit_ledgers([tmp_path])
    assert not report.is_exact
    assert report.epochs[0].missing.tolist() == sorted(lost)
    assert not len(report.epochs[0].double) and not len(report.epochs[1].missing)
    assert main(["audit", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"missing: 4 samples: {', '.join(map(str, sorted(lost)))}" in said
    assert "not exactly once" in said


def test_a_batch_delivered_twice_is_named(tmp_path: Path) -> None:
    _, second = plain_run(tmp_path)
    twice = ids_of(second, 1)
    rewrite(second, lambda records: [*records[:2], *records[1:]])
    report = iopipe.audit_ledgers([tmp_path])
    assert report.epochs[0].double.tolist() == sorted(twice) and not report.is_exact


def test_one_sample_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    first, _ = plain_run(tmp_path)
    was = ids_of(first, 0)[1]

    def change(records: list[Record]) -> list[Record]:
        records[0].ids[1] = records[0].ids[0]
        return records

    rewrite(first, change)
    report = iopipe.audit_ledgers([tmp_path])
    assert report.epochs[0].missing.tolist() == [was]
    assert report.epochs[0].double.tolist() == [ids_of(first, 0)[0]]


def test_both_ranks_with_the_same_share_are_caught(tmp_path: Path) -> None:
    """As where a script forgets to split: each rank logs that it is the only one."""
    plain_run(tmp_path, world=1)
    (tmp_path / "other").mkdir()
    (other,) = plain_run(tmp_path / "other", world=1)
    reader = LedgerReader(other)
    fields = {name: getattr(reader.header, name) for name in reader.header.__dataclass_fields__}
    for path in tmp_path.glob("*.ledger"):
        own = LedgerReader(path)
        path.unlink()
        with LedgerWriter(tmp_path, Header(**{**fields, "world": 2, "rank": 0})) as writer:
            for record in reader.records():
                writer.append(record)
        del own
    report = iopipe.audit_ledgers([tmp_path])
    assert not report.is_exact
    assert report.problems == (
        "the start of 2 ranks at epoch 0, position 0 left ledgers of ranks [0] only",
    )


def test_a_rank_that_left_no_ledger_is_missed(tmp_path: Path) -> None:
    _, second = plain_run(tmp_path)
    second.unlink()
    report = iopipe.audit_ledgers([tmp_path])
    assert not report.is_exact and "ranks [0] only" in report.problems[0]
    assert len(report.epochs[0].missing) == 20


def test_a_torn_record_is_told_and_is_not_counted(tmp_path: Path) -> None:
    for path in plain_run(tmp_path, num_batches=3):
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 2)
    report = iopipe.audit_ledgers([tmp_path])
    assert report.is_exact and len(report.notes) == 2
    assert [epoch.num_delivered for epoch in report.epochs] == [16]


def test_an_epoch_under_way_has_nothing_missing_yet(tmp_path: Path) -> None:
    plain_run(tmp_path, num_batches=7)
    report = iopipe.audit_ledgers([tmp_path])
    assert report.is_exact
    assert [epoch.is_finished for epoch in report.epochs] == [True, False]
    assert [epoch.num_delivered for epoch in report.epochs] == [40, 16]


def test_ledgers_of_other_trainings_are_told_apart(tmp_path: Path) -> None:
    for seed in (1, 2):
        with numbers(8).shuffle(seed).batch(2).run(ledger=tmp_path) as run:
            list(run)
    with pytest.raises(StateError, match="not of one training: seed is"):
        iopipe.audit_ledgers([tmp_path])


def test_no_ledgers_are_no_proof(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no ledgers"):
        iopipe.audit_ledgers([tmp_path])


def test_the_command_says_what_was_proven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = plain_run(tmp_path)
    assert main(["audit", *map(os.fspath, paths)]) == 0
    said = capsys.readouterr().out
    assert "epoch 1 (finished): 40 delivered, 0 left out, 0 dropped by the tail" in said
    assert "exactly once: 2 ledgers of 1 starts, 2 epochs" in said
    assert main(["audit", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] is True


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_run_logs_what_it_left_out(tmp_path: Path, batch_size: int | None) -> None:
    pipeline = numbers(30, bad=[4, 11], on_error="skip").map(
        lambda sample: sample if sample["x"] % 5 else None, name="filter"
    )
    if batch_size:
        pipeline = pipeline.batch(batch_size)
    with pipeline.run(ledger=tmp_path) as run:
        list(run)
    report = iopipe.audit_ledgers([tmp_path])
    assert report.is_exact
    (epoch,) = report.epochs
    assert (epoch.num_delivered, epoch.num_left_out) == (22, 8)


def test_what_a_later_start_undid_is_counted(tmp_path: Path) -> None:
    """Three of five batches of each rank were behind the state that one rank went on from."""
    pipeline = numbers(40).shuffle(3)
    state: dict[str, Any] = {}
    for rank in range(2):
        with pipeline.split(rank, 2).batch(4).run(ledger=tmp_path / "ledgers") as run:
            for number, _ in enumerate(run, 1):
                if number == 2:
                    state = run.state_dict()
    with pipeline.batch(4).run(ledger=tmp_path / "ledgers") as run:
        run.load_state_dict(state)
        assert len(list(run)) == 6
    report = iopipe.audit_ledgers([tmp_path / "ledgers"])
    assert report.is_exact and report.epochs[0].num_delivered == 40
    assert report.num_undone == 2 * 3

"""The tuner on a running pipeline: batches stay what they are, whatever is turned."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fakes.source import numbers
from fakes.tunable import Machine, Stage

from iopipe.autotune.budget import Budget, free_memory, system_budget
from iopipe.autotune.setting import Knob, Setting
from iopipe.autotune.tuner import Tuner, Work
from iopipe.errors import PipelineError
from iopipe.knobs import PipelineKnobs
from iopipe.meter.tally import Totals
from iopipe.pipeline import Pipeline
from iopipe.topology.tree import Tree

BUDGET = Budget(cores=4.0)


def _plus_one(row: dict[str, int]) -> dict[str, int]:
    return {"x": row["x"] + 1}


def _pipeline(num_samples: int = 4000) -> Pipeline:
    return (
        numbers(num_samples)
        .shuffle(3)
        .map(_plus_one, concurrency="auto")
        .batch(20)
        .to("cpu", prefetch=1)
    )


def _columns(run: Iterator[Mapping[str, object]]) -> list[tuple[str, list[int]]]:
    return [(batch["__key__"][0], batch["x"].tolist()) for batch in run]  # type: ignore[index,attr-defined]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_whatever_is_turned_batches_stay_the_same(in_order: bool, num_workers: int) -> None:
    pipeline = _pipeline(1200 if num_workers else 4000).workers(num_workers)
    with pipeline.run() as run:
        expected = _columns(run)
    draws = random.Random(5)
    found = []
    with pipeline.run(tune=BUDGET, in_order=in_order) as run:
        for number, batch in enumerate(run):
            found.append((batch["__key__"][0], batch["x"].tolist()))
            knobs = run._knobs
            assert knobs is not None
            if number % (15 if num_workers else 3) == 0:
                knobs.turn({knob.name: draws.randint(1, _most(knob)) for knob in knobs.all()})
    assert found == expected if in_order else sorted(found) == sorted(expected)
    assert not [one for one in threading.enumerate() if one.name.startswith("iopipe-")]


def _most(knob: Knob) -> int:
    return min(knob.most, 3 if knob.kind == "processes" else 9)


def test_threads_come_and_go_at_once_or_after_their_item() -> None:
    with _pipeline().run(tune=BUDGET) as run:
        next(run)
        knobs, run._tuner = run._knobs, None  # nobody else turns them here
        assert knobs is not None
        values = knobs.values()
        assert values == {
            "read.threads": 2, "_plus_one.threads": 1, "prefetch": 1, "chunk_samples": 3
        }  # fmt: skip
        knobs.turn({**values, "_plus_one.threads": 5})
        assert _num_threads("_plus_one") == 5
        knobs.turn({**values, "_plus_one.threads": 1})
        for _ in range(50):
            next(run)
        assert _num_threads("_plus_one") <= 2  # one may just be leaving
        report = run.report()
        assert report.stages[1].concurrency == 1
        assert report.edges[-1].capacity == 2


def _num_threads(stage: str) -> int:
    return sum(one.name.startswith(f"iopipe-{stage}-") for one in threading.enumerate())


def test_an_error_comes_where_it_belongs_whatever_is_turned() -> None:
    pipeline = numbers(400, bad=[333]).map(_plus_one, concurrency="auto").batch(10)
    with pipeline.run(tune=BUDGET) as run:
        seen = []
        with pytest.raises(Exception, match="number 333 is bad"):
            for batch in run:
                seen += batch["x"].tolist()
                knobs = run._knobs
                assert knobs is not None
                knobs.turn({**knobs.values(), "_plus_one.threads": 1 + len(seen) % 7})
    assert seen == list(range(1, 331))


def test_without_tune_nothing_is_watched() -> None:
    with _pipeline(40).run() as run:
        next(run)
        assert run._tuner is None
        assert run._pass is not None
        assert all(core == 0 for _, core in run._pass.engine.stage_times())
        with pytest.raises(PipelineError, match="nothing was tuned"):
            run.tuning()


@pytest.mark.parametrize(
    ("pipeline", "tune", "said"),
    [
        (lambda: numbers(8), "auto", "call batch"),
        (lambda: numbers(8).batch(2), "more", "tune is 'more'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(pipeline, tune, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PipelineError, match=said):
        pipeline().run(tune=tune)


def test_two_stages_of_one_name_cannot_be_told_apart() -> None:
    with pytest.raises(PipelineError, match="give name="):
        numbers(8).map(_plus_one).map(_plus_one, concurrency="auto")


# ---- the tuner itself, on a clock of its own --------------------------------------------


class Loop:
    """A simulated loader, its meter and its clock."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.now = self.busy = 0.0
        self.num_steps = 0
        self.stalled = 0.0
        self.num_samples_a_step = 4
        self._values = machine.worst()
        self.work_done = dict.fromkeys(machine.stages, 0.0)

    def all(self) -> tuple[Knob, ...]:
        return tuple(self.machine.knobs())

    def values(self) -> dict[str, int]:
        return dict(self._values)

    def turn(self, values: Mapping[str, int]) -> None:
        self._values = dict(values)

    def needs(self, values: Mapping[str, int]) -> Mapping[str, int]:
        return {}

    def work(self) -> Mapping[str, Work]:
        return {
            name: Work(done, done * self.machine.stages[name].on_core)
            for name, done in self.work_done.items()
        }

    def core_seconds(self) -> float:
        return sum(work.core_seconds for work in self.work().values())

    def steps_in_flight(self) -> int:
        return 2

    def totals(self) -> Totals:
        stalled = round(self.stalled * 1e9)
        return Totals(
            num_steps=self.num_steps,
            num_samples=self.num_samples_a_step * self.num_steps,
            wall_ns=round(self.now * 1e9),
            stall_ns=stalled,
            causes_ns={"decode": stalled},
        )

    def step(self) -> None:
        seconds = self.machine.seconds(self._values)
        self.now += seconds
        self.num_steps += 1
        self.stalled += seconds - self.machine.step
        for name, stage in self.machine.stages.items():
            self.work_done[name] += stage.seconds


def _tuned(loop: Loop, num_steps: int) -> Tuner:
    tuner = Tuner(loop, loop.totals, budget=Budget(cores=2.0), clock=lambda: loop.now)
    for _ in range(num_steps):
        loop.step()
        tuner.step()
    return tuner


def test_two_hundred_steps_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(Machine({"read.threads": Stage(0.1, 0.05), "decode.threads": Stage(0.024)}))
    with caplog.at_level(logging.INFO, logger="iopipe.autotune.tuner"):
        found = _tuned(loop, 200).found()
    assert found.is_settled
    assert loop.machine.seconds(found.setting.values) == pytest.approx(loop.machine.best())
    assert loop.values() == found.setting.values
    assert "read.threads 1 -> 2" in caplog.text
    assert str(found).splitlines()[-1].startswith("settled on: read.threads ")
    steps = [step for step, _ in found.decisions]
    assert steps == sorted(steps)
    assert found.to_json()[0]["what"] == "try"


def test_batches_that_nobody_can_count_are_counted_themselves() -> None:
    """A step that is slow keeps no move; with a rate of nought any would seem a gain."""
    loop = Loop(Machine({"decode.threads": Stage(0.024)}, step=0.020))
    loop.num_samples_a_step = 0
    found = _tuned(loop, 200).found()
    assert found.is_settled
    assert loop.machine.seconds(found.setting.values) == pytest.approx(loop.machine.best())
    assert [one.what for _, one in found.decisions] == ["try", "keep", "settle"]
    assert "42 to 50 samples/s" in found.decisions[1][1].evidence


def test_a_device_that_lags_behind_makes_the_window_longer() -> None:
    loop = Loop(Machine({"decode.threads": Stage(0.024)}))
    frozen = loop.totals()
    tuner = Tuner(loop, lambda: frozen, budget=BUDGET, clock=lambda: loop.now)
    for _ in range(50):
        loop.step()
        tuner.step()
    assert not tuner.found().decisions


def test_a_window_that_an_epoch_ends_in_counts_for_nothing() -> None:
    loop = Loop(Machine({"decode.threads": Stage(0.024)}))
    tuner = Tuner(loop, loop.totals, budget=BUDGET, clock=lambda: loop.now)
    for _ in range(40):  # epochs of 9 steps: 3 are skipped, 6 are less than a window
        tuner.pause()
        for _ in range(9):
            loop.step()
            tuner.step()
    assert not tuner.found().decisions
    assert tuner.found().num_steps == 360


# ---- budget and file --------------------------------------------------------------------


def test_memory_that_is_free_is_the_least_of_machine_and_group(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "proc/self/cgroup": "0::/job\n",
        "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/job/memory.max": "5000000\n",
        "sys/fs/cgroup/job/memory.current": "3000000\n",
        "sys/fs/cgroup/job/memory.stat": "anon 100\ninactive_file 1000000\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_memory(Tree(tmp_path)) == 3_000_000
    (tmp_path / "sys/fs/cgroup/job/memory.max").write_text("max\n")
    assert free_memory(Tree(tmp_path)) == 8000 << 10
    (tmp_path / "proc/meminfo").unlink()
    assert free_memory(Tree(tmp_path)) is None


def test_ranks_of_one_machine_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = system_budget()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    shared = system_budget()
    assert shared.cores == alone.cores / 2
    assert shared.resources["memory"] < 0.6 * alone.resources["memory"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")
    with pytest.raises(PipelineError, match="LOCAL_WORLD_SIZE is 'two'"):
        system_budget()


def test_batches_ahead_and_what_is_held_on_the_way_count_as_memory() -> None:
    with _pipeline().run(tune=BUDGET) as run:
        next(run)
        knobs = run._knobs
        assert isinstance(knobs, PipelineKnobs)
        few, many = (
            knobs.needs({**knobs.values(), "prefetch": number})["memory"] for number in (1, 11)
        )
        assert many - few == 10 * 20 * 8
        more = knobs.needs({**knobs.values(), "read.threads": 12})["memory"]
        assert more - few == 2 * 10 * 3 * 100_000


def test_a_setting_that_was_saved_makes_the_same_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "tuned.json"
    with _pipeline().run(tune=BUDGET) as run:
        next(run)
        setting = run.tuning().setting
    values = {**setting.values, "read.threads": 7, "_plus_one.threads": 3, "prefetch": 5}
    Setting(values=values, shape=setting.shape).save(file, decisions=run.tuning().to_json())
    tuned = _pipeline().tuned(file)
    assert (tuned.read_threads, tuned.stages[0].concurrency, tuned.prefetch) == (7, 3, 5)
    with tuned.run() as run, _pipeline().run() as plain:
        assert _columns(run) == _columns(plain)
        assert [stage.concurrency for stage in run.report().stages] == [7, 3, 1, 1]
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
    with pytest.raises(PipelineError, match="batch_size was 20, is 10"):
        numbers(40).map(_plus_one, concurrency="auto").batch(10).tuned(file)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"schema": 9}', '{"schema": 1, "values": {"a": 0}, "shape": {}}',
        '{"schema": 1, "values": {"a": true}, "shape": {}}',
        '{"schema": 1, "values": [], "shape": {}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_setting_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tuned.json"
    file.write_text(text)
    with pytest.raises(PipelineError, match="is no tuned setting"):
        Setting.load(file)


def test_a_setting_for_threads_that_are_not_there_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"names decode\.threads"):
        _pipeline().tuned(Setting(values={"decode.threads": 3}))

"""`iopipe diagnose`: with a clock of our own every run has a length that is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iopipe import cli
from iopipe.errors import PipelineError
from iopipe.profile.diagnose import Subject, diagnose
from iopipe.profile.loading import subject_from

MS = 1_000_000


class Machine:
    """A loader that works ahead in a thread of its own, and a step; all on one clock."""

    def __init__(
        self, *, load_ms: float, step_ms: float, slowed: float = 1.0, depth: int = 2
    ) -> None:
        self.now = 0
        self._load = round(load_ms * MS)
        self._step = round(step_ms * MS)
        self._slowed = slowed
        self._depth = depth
        self._is_loading = False

    def batches(self) -> Iterator[int]:
        self._is_loading = True
        ready, taken = self.now, [self.now] * self._depth
        try:
            for number in range(500):
                ready = max(ready, taken[number]) + self._load
                self.now = max(self.now, ready)
                taken.append(self.now)
                yield number
        finally:
            self._is_loading = False

    def step(self, batch: int) -> None:
        slowed = self._slowed if self._is_loading else 1.0
        self.now += round(self._step * slowed)

    def subject(self) -> Subject:
        return Subject(batches=self.batches, step=self.step, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("load_ms", "step_ms", "starved"), [(14.0, 10.0, 4 / 14), (8.0, 10.0, 0.0), (40.0, 1.0, 0.975)]
)
def test_all_estimates_agree_where_nothing_is_shared(
    load_ms: float, step_ms: float, starved: float
) -> None:
    found = diagnose(Machine(load_ms=load_ms, step_ms=step_ms).subject())
    lengths = {length.name: length.milliseconds for length in found.lengths}
    assert lengths["compute only"] == pytest.approx(step_ms)
    assert lengths["with loader"] == pytest.approx(max(load_ms, step_ms), rel=0.03)
    assert lengths["loader only"] == pytest.approx(load_ms, rel=0.03)
    for name in ("meter", "runs", "loader", "k steps"):
        assert found.estimates[name] == pytest.approx(starved, abs=0.035), name
    assert found.report.low_confidence == ""
    assert json.loads(json.dumps(found.to_json()))["estimates"] == found.estimates
    assert "compute only" in str(found)


def test_a_step_that_the_input_slows_is_not_vouched_for() -> None:
    found = diagnose(Machine(load_ms=5, step_ms=10, slowed=1.4).subject())
    assert found.estimates["meter"] == 0
    assert found.estimates["runs"] == pytest.approx(1 - 1 / 1.4, abs=0.01)
    assert "runs gives 28.6 % where the meter gives 0.0 %" in found.report.low_confidence
    assert "slows the step without stopping it" in found.report.low_confidence
    assert "low confidence: " in found.report.verdict


def test_copies_of_the_script_are_a_run_of_their_own() -> None:
    machine = Machine(load_ms=1, step_ms=10)

    def move(batch: int) -> int:
        machine.now += 3 * MS
        return batch

    subject = Subject(
        batches=machine.batches, step=machine.step, move=move, clock=lambda: machine.now
    )
    found = diagnose(subject)
    lengths = {length.name: length.milliseconds for length in found.lengths}
    assert (lengths["compute only"], lengths["with copies"]) == (10, 13)
    assert found.report.causes["h2d"] == pytest.approx(3 / 13, abs=0.01)


def test_what_cannot_be_diagnosed_is_an_error(tmp_path: Path) -> None:
    empty = Subject(batches=lambda: iter(()), step=lambda batch: None)
    with pytest.raises(PipelineError, match="gives no batches"):
        diagnose(empty)
    with pytest.raises(PipelineError, match="num_steps is 1"):
        diagnose(empty, num_steps=1)
    file = tmp_path / "subject.py"
    file.write_text("pipeline = [1, 2, 3]\nnumber = 7\ndef train_step(batch): pass\n")
    assert list(subject_from(f"{file}:pipeline").batches()) == [1, 2, 3]
    for target, step, message in (
        ("pipeline", "train_step", "names no pipeline"),
        (f"{file}:other", "train_step", "has no 'other'"),
        (f"{file}:number", "train_step", "is a int"),
        (f"{file}:pipeline", "number", "is no function"),
        (f"{tmp_path}/none.py:pipeline", "train_step", "is no file"),
    ):
        with pytest.raises(PipelineError, match=message):
            subject_from(target, step=step)


def test_a_file_finds_its_neighbours_as_a_script_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_subject.py").write_text("batches = [4, 5]\n")
    file = tmp_path / "subject_with_neighbour.py"
    file.write_text(
        "from neighbour_of_subject import batches as pipeline\ndef train_step(batch): pass\n"
    )
    assert list(subject_from(f"{file}:pipeline").batches()) == [4, 5]
    assert sys.path[0] == str(tmp_path)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trained.py"
    file.write_text(
        "import time\n"
        "class Loader:\n"
        "    def __iter__(self):\n"
        "        for number in range(40):\n"
        "            time.sleep(0.003)\n"
        "            yield number\n"
        "loader = Loader()\n"
        "def train_step(batch): time.sleep(0.001)\n"
    )
    out = tmp_path / "diagnosis.json"
    command = ["diagnose", f"{file}:loader", "--steps", "20", "--json", str(out)]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "starved by meter" in text
    report = json.loads(out.read_text())
    assert set(report["estimates"]) == {"meter", "runs", "loader", "k steps"}
    assert report["estimates"]["meter"] > 0

"""`iopipe tune pipeline`: a file's pipeline, its decisions, and the setting it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from iopipe import cli
from iopipe.errors import PipelineError
from iopipe.profile.tune import tune

FILE = """
import time
from fakes.source import numbers

steps = []
pipeline = numbers(64).map(dict, name="copy", concurrency="auto").batch(4)
empty = numbers(0).batch(4)
loader = [1, 2, 3]

def train_step(batch):
    steps.append(batch["x"].tolist())
    time.sleep(0.002)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trains_on_numbers.py"
    path.write_text(FILE)
    return path


def test_the_command_leaves_a_setting_that_the_pipeline_loads(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.json"
    command = ["tune", "pipeline", f"{file}:pipeline", "--steps", "90", "--out", str(out)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    content = json.loads(out.read_text())
    assert content["schema"] == 1
    assert content["values"].keys() == {"read.threads", "copy.threads", "prefetch", "chunk_samples"}
    assert len(printed) == len(content["decisions"]) + 3
    assert "over all 90 steps: " in printed[-2]
    assert all(1 <= decision["step"] <= 90 for decision in content["decisions"])
    module = sys.modules[file.stem]
    assert len(module.steps) == 90
    assert module.steps[:16] == module.steps[16:32]
    assert module.pipeline.tuned(out).prefetch == content["values"]["prefetch"]


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        ("loader", 10, 'iopipe.DataLoader(..., tune="auto")'),
        ("pipeline", 0, "at least 1"),
        ("nothing", 10, "has no 'nothing'"),
        ("empty", 10, "gives no batches"),
    ],
)
def test_what_cannot_be_tuned_is_said(file: Path, name: str, steps: int, said: str) -> None:
    with pytest.raises(PipelineError) as error:
        tune(f"{file}:{name}", num_steps=steps)
    assert said in str(error.value)


@pytest.mark.parametrize("ceiling", ["0", "-2", "nan", "inf"])
def test_a_ceiling_takes_some_time_to_measure(
    file: Path, ceiling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tune", "pipeline", f"{file}:pipeline", "--ceiling", ceiling]) == 1
    assert f"ceiling is {ceiling}: give more than 0 seconds" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said_before_anything_is_tuned(
    file: Path, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match="lies in no folder"):
        tune(f"{file}:pipeline", out=tmp_path / "none" / "tuned.json")
    assert sys.modules[file.stem].steps == []

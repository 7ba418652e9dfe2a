"""All steps on a GPU: one that fails costs no other."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import psutil
import pytest

from iopipe.bench import on_gpu
from iopipe.bench.on_gpu import STEPS, Step, run_steps


def test_a_step_that_fails_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]])\n"
        "time.sleep(600)\n"
    )
    steps = {
        "no such": Step(command=("iopipe.no_such",), seconds=60),
        "a tool": Step(command=("this",), seconds=60, under=("no-such-tool",)),
        "slow": Step(
            command=("child", "{json}"), seconds=2, environment={"PYTHONPATH": str(tmp_path)}
        ),
        "well": Step(command=("json.tool", "{images}", "{json}"), seconds=60),
    }
    (tmp_path / "one.json").write_text("[1]")
    rows = run_steps(steps, tmp_path, {"images": str(tmp_path / "one.json"), "memory": ""})
    assert [row["ended"] for row in rows] == [
        "exit code 1", "not run: no-such-tool is not there", "ran out of 2 s", "well",
    ]  # fmt: skip
    assert "no_such" in (tmp_path / "no_such.log").read_text()
    assert json.loads((tmp_path / "well.json").read_text()) == [1]
    mark = str(tmp_path / "slow.json")
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or ())]


def test_every_step_is_there() -> None:
    for name, step in STEPS.items():
        module, *rest = step.command
        assert importlib.util.find_spec(module) is not None, name
        for place in rest:
            if place.startswith("tests/"):
                assert list(Path(__file__).parents[2].joinpath(place).rglob("test_*.py")), name


def test_the_exit_code_says_whether_all_was_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        on_gpu, "STEPS", {"a": Step(command=("timeit", "-n", "1", "pass"), seconds=60)}
    )
    given = ["--images", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="0"):
        on_gpu.main(given)
    (row,) = json.loads((tmp_path / "out" / "steps.json").read_text())["rows"]
    assert (row["step"], row["ended"]) == ("a", "well")

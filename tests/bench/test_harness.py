"""The harness: turns, medians, and what it says of the machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from iopipe.bench import harness
from iopipe.bench.harness import (
    Contestant,
    environment,
    interleave,
    residency,
    run_one,
    write_results,
)

COUNT = (
    "import json, sys, pathlib\n"
    "log = pathlib.Path(sys.argv[1])\n"
    "with log.open('a') as file: file.write(sys.argv[2])\n"
    "print('noise')\n"
    "print(json.dumps({'value': len(log.read_text())}))\n"
)


def test_contestants_run_in_turns_and_are_summed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, seen = tmp_path / "log", []
    monkeypatch.setattr(harness, "_QUIET_CORES", 99)  # whatever else this machine does
    contestants = [Contestant(name, (sys.executable, "-c", COUNT, str(log), name)) for name in "AB"]
    results = interleave(contestants, num_rounds=3, on_run=lambda name, row: seen.append(name))
    assert log.read_text() == "ABABAB"
    assert seen == list("ABABAB")
    assert results["A"].summary()["value"] == {"median": 3, "min": 1, "max": 5}
    assert results["B"].summary()["value"] == {"median": 4, "min": 2, "max": 6}


def test_a_disturbed_run_is_made_again_and_the_least_disturbed_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = iter([0.9, 0.3, 0.5, 0.0])
    monkeypatch.setattr(
        harness, "run_one", lambda command: {"value": 1, "foreign_cores": next(loads)}
    )
    results = interleave([Contestant("A", ())], num_rounds=2, on_run=lambda name, row: None)
    kept = [(row["foreign_cores"], row["tries"]) for row in results["A"].rows]
    assert kept == [(0.3, 2), (0.0, 1)]


def test_peak_memory_is_that_of_the_whole_family() -> None:
    child = "import time; held = bytearray(80 << 20); time.sleep(1.5)"
    parent = (
        "import json, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])\n"
        "print(json.dumps({}))\n"
    )
    row = run_one((sys.executable, "-c", parent))
    assert 80 << 20 < row["peak_pss_bytes"] < 300 << 20
    assert row["foreign_cores"] >= 0


def test_a_contestant_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        run_one((sys.executable, "-c", "raise SystemExit(3)"))


def test_residency_tells_cold_from_warm(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1 << 20))
    assert residency([path]) == {"bytes": 1 << 20, "resident_fraction": 1.0}
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert residency([path])["resident_fraction"] < 0.5


def test_results_say_where_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder" / "r.json"
    write_results(path, command="run it", cache={"state": "warm"}, rows=[{"name": "a"}])
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert content["rows"] == [{"name": "a"}]
    assert {"date", "cpu", "cores", "python", "torch"} <= content["environment"].keys()
    assert os.uname().nodename not in path.read_text()


def test_the_gpu_and_its_driver_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA X1, 570.1'\necho 'NVIDIA X1, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = environment()
    assert (found["gpu"], found["driver"]) == ("NVIDIA X1, NVIDIA X1", "570.1")
    tool.write_text("#!/bin/sh\necho 'no devices were found'\nexit 9\n")
    assert not {"gpu", "driver"} & environment().keys()

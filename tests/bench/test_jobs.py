"""The benchmark of jobs in small: what is timed is checked, and the plan is a whole one."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from iopipe.bench.harness import Runs
from iopipe.bench.jobs import _SCRIPT, contestants, ratios, write_loose
from iopipe.bench.planning import measure_planning

needs_peers = pytest.mark.skipif(
    not _SCRIPT.exists(), reason="the peers' scripts do not ship with the package"
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.JPEG").write_bytes(bytes([number + 1]) * (500 + number))
    return tmp_path / "images"


@needs_peers
def test_every_way_writes_all_files_and_leaves_none(images: Path, tmp_path: Path) -> None:
    written = write_loose(images, tmp_path / "loose", num_files=10)
    assert len({path.read_bytes() for path in written}) == 3
    for contestant in contestants(tmp_path, num_workers=2, shard_samples=4):
        answer = subprocess.run(contestant.command, check=True, capture_output=True, text=True)
        row = json.loads(answer.stdout.splitlines()[-1])
        assert row["command_seconds"] >= row["seconds"] > 0 and row["megabytes_per_second"] > 0
        assert not (tmp_path / "out").exists()


@needs_peers
def test_a_way_that_loses_a_file_gets_no_row(images: Path, tmp_path: Path) -> None:
    write_loose(images, tmp_path / "loose", num_files=4)
    script = contestants(tmp_path, num_workers=1, shard_samples=4)[0].command[1]
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "out" / "a.tar", "w") as archive:
        for number in range(3):
            archive.add(tmp_path / "loose" / f"{number:06d}.jpg", f"{number:06d}.jpg")
    code = (
        f"import runpy; from pathlib import Path; "
        f"check = runpy.run_path({script!r})['check']; "
        f"check(Path({str(tmp_path / 'loose')!r}), Path({str(tmp_path / 'out')!r}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 1 and "3 members were written, 4 files" in answer.stderr


def test_ratios_are_those_of_the_rounds() -> None:
    def runs(*seconds: float) -> Runs:
        return Runs([{"seconds": value, "command_seconds": value + 1} for value in seconds])

    results = {"iopipe": runs(1, 2, 4), "tar": runs(3, 2, 5), "webdataset": runs(4, 4, 4)}
    found = {row["name"]: row for row in ratios(results)}
    tar, webdataset = (found[f"iopipe against {name}"] for name in ("tar", "webdataset"))
    assert tar["ratio_of_seconds"] == {"median": 1.25, "min": 1.0, "max": 3.0}
    assert tar["ratio_of_command_seconds"]["median"] == 1.2
    assert webdataset["ratio_of_seconds"]["median"] == 2.0


def test_a_large_job_is_planned_as_a_whole() -> None:
    row = measure_planning(num_samples=10**6, num_shards=10**3)
    assert row["num_tasks"] == 1000
    assert row["seconds"] > 0 and row["peak_rss_bytes"] > 0

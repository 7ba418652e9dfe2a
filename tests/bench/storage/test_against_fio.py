"""The comparison with fio: every contestant runs and says how fast; fio's answer is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iopipe.bench.harness import Runs
from iopipe.bench.storage import against_fio
from iopipe.bench.storage.against_fio import OURS, ratio_of

_FIO = (
    "#!/bin/sh\n"
    'case "$*" in *--iomem_align=4096*--invalidate=0*) ;; *) exit 1 ;; esac\n'
    'echo \'{"jobs": [{"usr_cpu": 20, "sys_cpu": 30, '
    '"read": {"bw_bytes": 2500000000}}]}\'\n'
)
"""A script that answers as fio 3 does."""


@pytest.fixture
def fio(tmp_path: Path) -> str:
    path = tmp_path / "fio"
    path.write_text(_FIO)
    path.chmod(0o755)
    return str(path)


def test_all_are_measured_in_turns(
    fio: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(bytes(16 << 20))
    arguments = ["--blocks", "128KiB", "--seconds", "0.02", "--rounds", "2", "--fio", fio]
    against_fio.main([str(tmp_path / "a"), *arguments, "--json", str(tmp_path / "r.json")])
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["name"] for row in rows if "ratio" in row] == list(OURS)
    for row in rows:
        assert row["runs"] == 2 and row["block_bytes"] == 128 << 10
        assert row["gbps"]["median"] > 0 and row["cpu_s_per_gb"]["median"] > 0
        assert row["foreign_cores"]["min"] >= 0
        if "ratio" in row:
            assert row["ratio"]["median"] == pytest.approx(row["gbps"]["median"] / 2.5)
            assert row["cpu_ratio"]["max"] == pytest.approx(0.2 / row["cpu_s_per_gb"]["min"])
    assert capsys.readouterr().out.count("of fio's") == len(OURS)


def test_jobs_are_those_of_fio() -> None:
    for name, one in OURS.items():
        job = one.job(128 << 10)
        assert job.direct == ("direct" in one.fio)
        assert job.queue_depth == (64 if "depth 64" in one.fio else 1), name
    assert OURS["posix"].job(4096).batch == 256
    assert OURS["posix, a request a call"].job(4096).batch == 1


def test_ratios_are_those_of_each_round() -> None:
    ours = Runs([{"gbps": 1.0}, {"gbps": 4.0}, {"gbps": 3.0}])
    theirs = Runs([{"gbps": 2.0}, {"gbps": 4.0}, {"gbps": 2.0}])
    assert ratio_of(ours, theirs, "gbps") == {"median": 1.0, "min": 0.5, "max": 1.5}

"""The comparison of stores: every contestant runs and says how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iopipe.bench import stores


@pytest.mark.parametrize("name", stores.STORES)
def test_one_job(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    arguments = [str(tmp_path / "a"), "--one", name, "--block", "131072", "--seconds", "0.02"]
    stores.main(arguments)
    row = json.loads(capsys.readouterr().out)
    assert row["gbps"] > 0 and row["cpu_s_per_gb"] >= 0


def test_fio_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script in its place checks the options and answers as fio 3 does."""
    fio = tmp_path / "fio"
    fio.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--ioengine=psync*--direct=1*--iodepth=1*--iomem_align=4096*) ;; '
        "*) exit 1 ;; esac\n"
        'echo \'{"jobs": [{"usr_cpu": 20, "sys_cpu": 30, "read": {"bw_bytes": 2500000000}}]}\'\n'
    )
    fio.chmod(0o755)
    stores.main(["a", "--one", "fio psync direct", "--fio", str(fio)])
    row = json.loads(capsys.readouterr().out)
    assert row["gbps"] == 2.5 and row["cpu_s_per_gb"] == 0.2

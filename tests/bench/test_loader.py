"""`iopipe bench loader` and the runner with peers: settings, clock, rows, what is refused."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import iopipe
from iopipe.bench import harness, loader, measure
from iopipe.bench.loader_command import settings
from iopipe.cli import main

ROW = {
    *("dataset", "decode", "fidelity", "device", "samples_per_second", "cpu_seconds_per_1000"),
    *("gbps", "first_batch_seconds", "peak_rss_bytes", "threads", "workers"),
}
PEERS = Path(loader.__file__).resolve().parent / "peers"
needs_peers = pytest.mark.skipif(
    not PEERS.exists(), reason="the peers' scripts are part of a checkout alone"
)


# ---- the command -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((2, None, None), [(1, 0), (2, 0), (4, 0), (0, 1), (0, 2)]),
        ((16, None, None), [(8, 0), (16, 0), (32, 0), (0, 4), (0, 8), (0, 16)]),
        ((2, 3, None), [(3, 0)]),
        ((2, 3, 0), [(3, 0)]),
        ((2, None, 5), [(0, 5)]),
        ((2, None, 0), [(1, 0), (2, 0), (4, 0)]),
        ((2, 0, None), [(0, 1), (0, 2)]),
        ((2, 0, 0), [(0, 0)]),
    ],
)
def test_what_is_tried(given: tuple[Any, ...], expected: list[tuple[int, int]]) -> None:
    assert settings(*given, has_images=True) == expected


def test_without_images_threads_are_not_tried() -> None:
    assert settings(2, None, None, has_images=False) == [(0, 0), (0, 1), (0, 2)]
    with pytest.raises(iopipe.PipelineError, match="no images"):
        settings(2, 3, None, has_images=False)
    with pytest.raises(iopipe.PipelineError, match="--threads or --workers"):
        settings(2, 3, 1, has_images=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    with iopipe.DatasetWriter(tmp_path / "shards", max_samples=16) as writer:
        for number in range(40):
            raw = io.BytesIO()
            Image.new("RGB", (40, 30), (number, 90, 7)).save(raw, "JPEG")
            writer.write({"__key__": str(number), "jpg": raw.getvalue(), "cls": number})
    return tmp_path / "shards"


def run(dataset: Path, *options: str) -> dict[str, Any]:
    out = dataset.parent / "out.json"
    given = ("--seconds", "0.05", "--warmup", "0", "--batch", "8", "--json", str(out))
    assert main(["bench", "loader", str(dataset), *given, *options]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    assert str(dataset.parent) not in out.read_text()
    return content


def test_the_best_setting_of_images_is_found(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    content = run(images, "--size", "16", "--fidelity", "scaled")
    tried = content["tried"]
    assert [(row["threads"], row["workers"]) for row in tried] == [(1, 0), (2, 0), (0, 1)]
    (row,) = content["rows"]
    assert ROW <= row.keys() and content["schema"] == 1
    best = max(tried, key=lambda row: row["samples_per_second"])
    assert (row["threads"], row["workers"]) == (best["threads"], best["workers"])
    assert (row["dataset"], row["decode"], row["fidelity"]) == ("shards", "cpu", "scaled")
    per_sample = row["gbps"] * 1e9 / row["samples_per_second"]
    assert per_sample == pytest.approx(16 * 16 * 3)
    assert row["peak_rss_bytes"] >= 0 and row["first_batch_seconds"] > 0
    assert capsys.readouterr().out.count("tried") == 3


def test_windows_of_a_flat_token_file(tmp_path: Path) -> None:
    np.arange(2049 * 20, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    (row,) = run(tmp_path / "tokens.bin", "--workers", "0", "--threads", "0")["rows"]
    assert row["gbps"] * 1e9 / row["samples_per_second"] == pytest.approx(2049 * 2)


def test_rows_of_a_table_from_a_worker(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(99, dtype=np.float32), "y": np.arange(99)})
    with pa.ipc.new_file(tmp_path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    (row,) = run(tmp_path / "t.arrow", "--workers", "1", "--shuffle", "none")["rows"]
    assert row["gbps"] * 1e9 / row["samples_per_second"] == pytest.approx(12)
    assert (row["threads"], row["workers"]) == (0, 1)


def test_what_is_refused(images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    common = ["bench", "loader", str(images), "--json", str(images.parent / "o.json")]
    assert main([*common, "--decode", "magic"]) == 1
    assert "--decode is 'magic'; iopipe has cpu" in capfd.readouterr().err
    assert main([*common, "--threads", "1", "--size", "0", "--seconds", "0"]) == 1
    assert "iopipe: a run failed" in capfd.readouterr().err


def test_the_command_line_comes_without_torch() -> None:
    code = "import sys, iopipe.cli; iopipe.cli._parser(); sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# ---- the clock ---------------------------------------------------------------------------


def test_the_rate_is_that_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    cpu = iter([5.0, 6.5])
    monkeypatch.setattr(measure, "family_cpu_seconds", lambda pid: next(cpu))

    def batches() -> Generator[tuple[int, int], None, None]:
        for seconds in (3.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 99.0):
            now[0] += seconds
            yield 10, 4_000_000_000

    parser = argparse.ArgumentParser()
    measure.add_options(parser)
    options = parser.parse_args(["a/b/data", "--warmup", "2", "--seconds", "2", "--workers", "3"])
    row = measure.measured(batches, options)
    assert row["first_batch_seconds"] == 3.0
    assert row["samples_per_second"] == 20.0
    assert row["gbps"] == 8.0
    assert row["cpu_seconds_per_1000"] == 37.5
    assert (row["dataset"], row["threads"], row["workers"]) == ("data", 0, 3)


def test_the_cpu_time_of_grandchildren_counts() -> None:
    """Workers of a fork server are those."""
    burn = "import time\nwhile time.process_time() < 0.6: pass\nprint(1, flush=True)\n"
    burn += "time.sleep(60)"
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    command = [sys.executable, "-c", between]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"1\n"
            assert measure.family_cpu_seconds(child.pid) > 0.5
        finally:
            os.killpg(child.pid, signal.SIGKILL)


# ---- peers -------------------------------------------------------------------------------


@needs_peers
def test_every_peer_has_a_script_and_pinned_packages() -> None:
    scripts = {path.stem.removeprefix("peer_") for path in PEERS.glob("peer_*.py")}
    pinned = {path.stem for path in (PEERS / "requirements").glob("*.txt")}
    assert scripts == pinned == set(loader.PEERS)
    for name in loader.PEERS:
        lines = loader.requirements(name)
        assert lines and all(line.count("==") == 1 for line in lines), name


@needs_peers
def test_peers_prepare_and_take_turns_with_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 90, 7)).save(photographs / f"{number}.jpg")
    log = tmp_path / "log"
    python = tmp_path / "python"
    row = {"samples_per_second": 9, "cpu_seconds_per_1000": 1, "first_batch_seconds": 1}
    python.write_text(f"#!/bin/sh\necho \"$@\" >> {log}\necho '{json.dumps(row)}'\n")
    python.chmod(0o755)
    out = tmp_path / "out.json"
    monkeypatch.setattr(harness, "_QUIET_CORES", 99)
    monkeypatch.setattr(
        sys, "argv",
        ["loader", "--images", str(photographs), "--json", str(out), "--rounds", "1",
         "--samples", "30", "--shards", "2", "--seconds", "0.05", "--warmup", "0", "--batch", "8",
         "--peer-python", f"dali={python}", "--peer-python", f"torch={python}"],
    )  # fmt: skip
    loader.main()
    content = json.loads(out.read_text())
    assert [row["name"] for row in content["rows"]] == [
        "iopipe exact", "iopipe scaled", "DALI on the CPU", "torch DataLoader, loose files",
    ]  # fmt: skip
    assert content["rows"][1]["fidelity"] == "scaled"
    assert content["rows"][1]["samples_per_second"]["median"] > 0
    assert content["peers"].keys() == {"dali", "torch"}
    calls = [line.split() for line in log.read_text().splitlines()]
    assert [Path(call[0]).name for call in calls] == ["peer_dali.py", "peer_torch.py"] * 2
    assert [call[2] for call in calls] == ["--prepare", "--prepare", "--threads", "--workers"]
    assert str(tmp_path) not in out.read_text()


def test_a_folder_of_another_dataset_is_refused(tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "written").write_text("x")

    loader._once(tmp_path, "shards", write, what="30 samples in 2 shards")
    (tmp_path / "written").unlink()
    loader._once(tmp_path, "shards", write, what="30 samples in 2 shards")
    assert not (tmp_path / "written").exists()
    with pytest.raises(iopipe.PipelineError, match="holds 30 samples in 2 shards, not 40 samples"):
        loader._once(tmp_path, "shards", write, what="40 samples in 2 shards")


def test_unknown_peers_are_refused(tmp_path: Path) -> None:
    for text in ("nobody=/bin/sh", "torch=/no/such", "torch"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=PATH"):
            loader._peer(text)

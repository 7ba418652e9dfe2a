"""Jobs that are killed: nothing done is lost, nothing half-done is seen, nobody is left."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from iopipe.errors import StorageError, WorkerError
from iopipe.jobs import ShardOptions, TransformSpec, shard
from iopipe.readers import DatasetWriter
from iopipe.readers.sink import HashedFile

Tree = Callable[[Path], dict[str, bytes]]


_COMMAND = """
import signal, sys
from iopipe.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
sys.exit(main())
"""


def _start(
    source: Path, out: Path, *, errors: int = subprocess.DEVNULL, **options: str
) -> subprocess.Popen[bytes]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-c", _COMMAND, "shard", str(source), str(out), *arguments]
    return subprocess.Popen(command, stderr=errors, start_new_session=True)


def _wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def _processes(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Enough work for a kill to come in the middle."""
    with DatasetWriter(tmp_path / "large") as writer:
        for number in range(400):
            writer.write({"__key__": f"s{number:04d}", "bin": bytes([number % 256]) * 40_000})
    return tmp_path / "large"


OPTIONS = {"shard_samples": "4", "shuffle_seed": "7", "workers": "2"}
MAPPED = {**OPTIONS, "map": "copy:copy"}
"""A map that changes nothing: what this process would do itself is done by workers."""


@pytest.mark.parametrize(
    "method, options", [("direct", OPTIONS), ("direct", MAPPED), ("external", OPTIONS)]
)
def test_killed_at_random_instants_and_started_again(
    large: Path, tmp_path: Path, tree: Tree, method: str, options: dict[str, str]
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    shard(large, undisturbed, ShardOptions(shard_samples=4, shuffle_seed=7), num_workers=2)
    generator = random.Random(method)
    # Early ones at any instant of the start, the others when so many shards are there.  A job
    # that was done before its kill came is checked, and another one is begun.
    waits = [generator.uniform(0.1, 0.35) for _ in range(2)]
    num_shards = sorted(generator.sample(range(1, 60), 3))
    num_kills, num_jobs = 0, 1
    while True:
        process = _start(large, out, **options, shuffle_method=method)
        if num_kills < 2:
            time.sleep(waits[num_kills])
        elif num_kills < 5:
            wanted = num_shards[num_kills - 2]
            _wait_for(lambda wanted=wanted, out=out: len(list(out.glob("*.tar"))) >= wanted)
        if num_kills < 5:
            os.killpg(process.pid, signal.SIGKILL)  # parent and workers at the same instant
        if process.wait() == -signal.SIGKILL:
            num_kills += 1
            for path in out.glob("shard-??????.tar"):
                assert path.read_bytes() == (undisturbed / path.name).read_bytes()
            if not (out / "manifest.json").exists():
                continue
            assert _start(large, out, **options, shuffle_method=method).wait() == 0
        assert process.returncode in (0, -signal.SIGKILL)
        assert tree(out) == tree(undisturbed)
        if num_kills == 5:
            break
        out, num_jobs = tmp_path / f"out-{num_jobs}", num_jobs + 1


def test_only_the_parent_is_killed_and_no_worker_outlives_it(large: Path, tmp_path: Path) -> None:
    process = _start(large, tmp_path / "out", **MAPPED)
    _wait_for(lambda: len(list((tmp_path / "out").glob("*.tar"))) > 3)
    assert len(_processes(process.pid)) == 3
    process.kill()
    process.wait()
    _wait_for(lambda: not _processes(process.pid))


@pytest.mark.parametrize("options", [OPTIONS, MAPPED], ids=["inline", "processes"])
def test_ctrl_c_ends_the_job_and_the_next_start_goes_on(
    large: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    out = tmp_path / "out"
    process = _start(large, out, errors=subprocess.PIPE, **options)
    _wait_for(lambda: len(list(out.glob("*.tar"))) > 3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and b"interrupted" in errors and b"Traceback" not in errors
    assert not _processes(process.pid)
    assert not list(out.glob("*.tmp")) and not (out / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    num_noted = len((out / ".iopipe-job" / "done.jsonl").read_text().splitlines())
    assert _start(large, out, **options).wait() == 0
    kept = [path for path, mtime in done.items() if path.stat().st_mtime_ns == mtime]
    assert len(kept) >= num_noted > 0


def _crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> ShardOptions:
    (tmp_path / "crash.py").write_text(f"import os, signal\n{code}")
    monkeypatch.syspath_prepend(str(tmp_path))
    mapped = TransformSpec(name="map", options={"function": "crash:work"})
    return ShardOptions(transforms=(mapped,), shard_samples=5)


def test_a_worker_that_dies_costs_its_shard_only(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Tree
) -> None:
    once = tmp_path / "once"
    options = _crashing(
        tmp_path,
        monkeypatch,
        "def work(sample):\n"
        "    if sample['__key__'] == 't017':\n"
        "        try:\n"
        f"            os.close(os.open({str(once)!r}, os.O_CREAT | os.O_EXCL))\n"
        "        except FileExistsError:\n"
        "            return sample\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return sample\n",
    )
    report = shard(texts, tmp_path / "out", options, num_workers=2)
    assert once.exists() and report.num_samples == 40
    shard(texts, tmp_path / "same", options, num_workers=2)
    assert tree(tmp_path / "out") == tree(tmp_path / "same")


def test_workers_serve_all_passes_and_leave_in_peace(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import atexit\n"
        "def leave():\n"
        f"    open({str(tmp_path)!r} + f'/left-{{os.getpid()}}', 'w').close()\n"
        "atexit.register(leave)\n"
        "def work(sample):\n"
        f"    open({str(tmp_path)!r} + f'/ran-{{os.getpid()}}', 'w').close()\n"
        "    return sample\n"
    )
    crashing = _crashing(tmp_path, monkeypatch, code)
    options = replace(crashing, shuffle_seed=1, shuffle_method="external", dedup=True)
    started: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]  # type: ignore[no-any-return]

    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", counted)
    assert shard(texts, tmp_path / "out", options, num_workers=1).num_samples == 30
    assert len(started) == 1
    (ran,) = tmp_path.glob("ran-*")
    assert (tmp_path / ran.name.replace("ran", "left")).exists()
    assert capfd.readouterr().err == ""


def test_a_shard_that_kills_its_workers_is_named(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "def work(sample):\n"
        "    if sample['__key__'] == 't017':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return sample\n"
    )
    options = _crashing(tmp_path, monkeypatch, code)
    with pytest.raises(WorkerError, match=r"3 workers died over shard 3.*SIGKILL.*memory"):
        shard(texts, tmp_path / "out", options, num_workers=2)


@pytest.mark.parametrize("num_workers", [1, 2], ids=["alone", "behind"])
def test_a_full_disk_is_named_and_what_is_done_stays(
    large: Path, tmp_path: Path, tree: Tree, num_workers: int
) -> None:
    """Files cannot grow beyond 200 kB, as if the disk was full; the first shards are smaller."""
    out = tmp_path / "out"
    small = ShardOptions(shard_samples=4)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limit[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*shard-0000.*too large"):
            shard(large, out, small, num_workers=num_workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(out.glob("*.tmp")) and not (out / "manifest.json").exists()
    shard(large, out, small, num_workers=2)
    shard(large, tmp_path / "undisturbed", small, num_workers=2)
    assert tree(out) == tree(tmp_path / "undisturbed")


def test_two_jobs_do_not_write_to_one_folder(large: Path, tmp_path: Path) -> None:
    process = _start(large, tmp_path / "out", **OPTIONS)
    _wait_for(lambda: (tmp_path / "out" / "shard-000001.tar").exists())
    os.kill(process.pid, signal.SIGSTOP)
    second = _start(large, tmp_path / "out", errors=subprocess.PIPE, **OPTIONS)
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1 and b"another job is writing" in errors
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait() == 0


def test_a_stop_in_the_instant_a_file_is_made_leaves_none(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if SIGTERM came while the operating system made the file."""
    code = (
        "from iopipe.readers.sink import HashedFile\n"
        "made = HashedFile.__init__\n"
        "def stopped(self, path, **options):\n"
        "    made(self, path, **options)\n"
        "    raise OSError(28, 'No space left on device')\n"
        "HashedFile.__init__ = stopped\n"
        "def work(sample):\n"
        "    return sample\n"
    )
    options = _crashing(tmp_path, monkeypatch, code)
    with monkeypatch.context() as patched:
        patched.setattr(HashedFile, "__init__", HashedFile.__init__)  # this process maps, too
        with pytest.raises(StorageError, match="no space left"):
            shard(texts, tmp_path / "out", options, num_workers=1)
    assert not list((tmp_path / "out").rglob("*.tmp"))

"""What goes wrong in a worker reaches the user, and nothing else runs there."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from iopipe.errors import WorkerError
from iopipe.jobs import ShardOptions, TransformSpec, shard
from iopipe.jobs.local import LocalEngine


def _mapped(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> ShardOptions:
    (folder / "user_errors.py").write_text(code)
    monkeypatch.delitem(sys.modules, "user_errors", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    mapped = TransformSpec(name="map", options={"function": "user_errors:work"})
    return ShardOptions(transforms=(mapped,), shard_samples=20)


_ODD = "class Odd(Exception):\n    def __init__(self, a, b):\n        super().__init__({})\n"
CANNOT_TRAVEL = {
    "arguments": _ODD.format("f'{a} {b}'"),
    "a lock": "import threading\n" + _ODD.format("f'{a} {b}', threading.Lock()"),
}


@pytest.mark.parametrize("kind", list(CANNOT_TRAVEL))
def test_an_exception_that_cannot_travel_is_told(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    code = CANNOT_TRAVEL[kind] + "def work(sample):\n    raise Odd('very', 'odd')\n"
    options = _mapped(tmp_path, monkeypatch, code)
    with pytest.raises(WorkerError, match=r"job's own code failed: Odd: .*very odd") as caught:
        shard(texts, tmp_path / "out", options, num_workers=1)
    assert "user_errors.py" in "".join(caught.value.__notes__)


def test_an_ordinary_exception_says_where_it_was_raised(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = _mapped(tmp_path, monkeypatch, "def work(sample):\n    return sample['nothing']\n")
    with pytest.raises(KeyError, match="nothing") as caught:
        shard(texts, tmp_path / "out", options, num_workers=1)
    assert "user_errors.py" in "".join(caught.value.__notes__)


def test_modules_of_the_current_folder_are_not_run(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the command is started in a folder that came with the data."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("xxhash", "random", "iopipe"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    options = _mapped(tmp_path, monkeypatch, "def work(sample):\n    return sample\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert shard(texts, tmp_path / "out", options, num_workers=1).num_samples == 40
    assert not (tmp_path / "ran").exists()


def test_a_worker_that_dies_while_it_answers_costs_its_item_only(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    code = (
        "import os, signal, struct\n"
        "from multiprocessing.connection import Connection\n"
        "def send(self, value):\n"
        "    try:\n"
        f"        os.close(os.open({str(once)!r}, os.O_CREAT | os.O_EXCL))\n"
        "    except FileExistsError:\n"
        "        return sent(self, value)\n"
        "    os.write(self.fileno(), struct.pack('!i', 1000) + b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "sent, Connection.send = Connection.send, send\n"
        "def work(sample):\n"
        "    return sample\n"
    )
    options = _mapped(tmp_path, monkeypatch, code)
    send = Connection.send
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "send", send)
        importlib.import_module("user_errors")  # this process builds the transform, too
        Connection.send = send  # type: ignore[method-assign]
        report = shard(texts, tmp_path / "out", options, num_workers=1)
    assert once.exists() and report.num_samples == 40


def _worker() -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", "iopipe.jobs.worker", str(theirs.fileno())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env=environment
    )
    theirs.close()
    return process, Connection(ours.detach())


def test_a_worker_whose_answer_nobody_reads_leaves_in_silence() -> None:
    process, pipe = _worker()
    pipe.send("no job")
    pipe.send(("shard", 0, 0, 0))  # fails, and its answer stays unread
    assert pipe.poll(60)
    pipe.close()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_ctrl_c_does_not_reach_a_worker_that_is_still_importing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks: list[set[int]] = []

    def started(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        return start(*arguments, **options)

    start = subprocess.Popen
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(subprocess, "Popen", started)
    engine = LocalEngine(num_workers=1)
    (process,) = engine._processes
    assert signal.SIGINT in masks[0] and signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    process.process.send_signal(signal.SIGINT)
    engine.close()
    assert process.process.returncode in (0, -signal.SIGTERM)

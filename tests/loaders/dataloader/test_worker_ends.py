"""How workers end: with their trainer, before it, and because they have nothing more to do."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes import loaded as data

import iopipe
from iopipe.loaders.workers import death

Make = Callable[..., Any]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "exit code 3"),
        (str(int(signal.SIGKILL)), r"signal.*SIGKILL|killed by signal: Killed"),
        (str(int(signal.SIGSEGV)), r"SIGSEGV|Segmentation fault"),
    ],
)
def test_a_dead_worker_is_an_error_that_says_how_it_died(method: str, how: str, said: str) -> None:
    loader = iopipe.DataLoader(data.Dying(12, how), num_workers=2, multiprocessing_context=method)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid") as caught:
        list(loader)
    assert re.search(said, str(caught.value)), str(caught.value)
    del caught


def test_likely_reasons(tmp_path: Path) -> None:
    class Dead:
        pid = 7

        def __init__(self, exitcode: int) -> None:
            self.exitcode = exitcode

    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert death.oom_kills(tmp_path) == 2
    assert death.oom_kills(tmp_path / "none") is None
    said = death.causes_of_death([Dead(-9)], None)
    assert "pid 7 was ended by signal 9 (SIGKILL); somebody sent SIGKILL" in said
    assert "/dev/shm has" in death.causes_of_death([Dead(-7)], None)
    before = death.oom_kills()
    if before is not None:
        said = death.causes_of_death([Dead(-9)], before - 1)
        assert "killed for memory 1 times" in said


SCRIPT = """
    import os, sys, time
    import torch
    sys.path[:0] = {paths!r}
    from fakes import loaded as data
    import iopipe
    def main():
        loader = iopipe.DataLoader(
            data.Kinds(10_000), batch_size=4, num_workers=2, worker_mode={mode!r},
            multiprocessing_context={method!r},
        )
        iterator = iter(loader)
        next(iterator)
        print(*[worker.pid for worker in iterator._workers], flush=True)
        {then}
    if __name__ == "__main__":
        main()
"""


def started(tmp_path: Path, *, mode: str, method: str | None, then: str) -> subprocess.Popen[str]:
    tests = Path(__file__).parents[2]
    package = Path(iopipe.__file__).parents[1]
    paths = [os.fspath(tests), os.fspath(package)]
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT).format(paths=paths, mode=mode, method=method, then=then)
    )
    return subprocess.Popen(
        [sys.executable, os.fspath(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and is_running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path, method: str) -> None:
    process = started(tmp_path, mode="process", method=method, then="time.sleep(60)")
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    process.kill()
    assert ended(pids, 10)
    process.communicate()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_ctrl_c_ends_trainer_and_workers(tmp_path: Path, mode: str) -> None:
    process = started(tmp_path, mode=mode, method=None, then="[time.sleep(0.01) for _ in iterator]")
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert ended(pids, 10)


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_script_that_ends_early_ends(tmp_path: Path, mode: str) -> None:
    process = started(tmp_path, mode=mode, method=None, then="")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and not errors.strip(), errors


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_script_that_ends_with_its_iterator_alive_ends(tmp_path: Path, mode: str) -> None:
    process = started(tmp_path, mode=mode, method=None, then="data.kept = iterator")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and not errors.strip(), errors


def test_the_end_of_a_program_waits_for_its_threads() -> None:
    """As `weakref.finalize` calls it then; a thread that is cut off inside torch aborts."""
    iterator = iter(iopipe.DataLoader(data.Numbers(1000), num_workers=2, worker_mode="thread"))
    next(iterator)
    workers = iterator._workers
    assert [worker.exitcode for worker in workers] == [None, None]
    for worker in workers:
        worker.end_with_program()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_dropped_iterators_end_their_workers(ours: Make) -> None:
    iterator = iter(ours(data.Numbers(1000), num_workers=2))
    next(iterator)
    workers = iterator._workers
    del iterator
    gc.collect()
    end = time.monotonic() + 10
    while any(worker.is_alive() for worker in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(worker.is_alive() for worker in workers)


def test_a_worker_that_has_nothing_more_to_do_is_no_time_out(make_processes: Make) -> None:
    """Nor is it while another one takes its time, as long as that is less than `timeout`."""
    stream = data.UnevenStream(seconds=0.2)
    loader = make_processes(stream, num_workers=2, timeout=60)
    assert [int(item) for item in loader] == [100, 101, 102]

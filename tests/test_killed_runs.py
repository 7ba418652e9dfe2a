"""Trainings whose processes are killed, 50 times: the ledgers prove that nothing was lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import iopipe

TRAINING = Path(__file__).parent / "fakes" / "training.py"
NUM_KILLS = 10
NUM_SAMPLES = 1200


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., psutil.Process]]:
    """Starts one rank."""
    command = [sys.executable, os.fspath(TRAINING)]
    package = os.fspath(Path(iopipe.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        pipes = server.stdin, server.stdout

        def start(**arguments: object) -> psutil.Process:
            pipes[0].write(json.dumps(arguments) + "\n")
            pipes[0].flush()
            return psutil.Process(int(pipes[1].readline()))

        yield start
        server.stdin.close()


def num_logged_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.ledger"))


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_double_over_ten_kills(
    seed: int, tmp_path: Path, launch: Callable[..., psutil.Process]
) -> None:
    generator = random.Random(seed)
    with iopipe.DatasetWriter(tmp_path / "data") as writer:
        for number in range(NUM_SAMPLES):
            writer.write({"__key__": f"s{number:04d}", "bin": bytes([number % 256]) * 500})
    ledgers = tmp_path / "ledgers"
    num_kills = 0
    for start in range(100):
        world = generator.randint(1, 3)
        before = num_logged_bytes(ledgers)
        ranks = [
            launch(
                folder=os.fspath(tmp_path),
                rank=rank,
                world=world,
                start=start,
                save_every=generator.randint(1, 4),
                tail="pad",
            )
            for rank in range(world)
        ]
        if num_kills < NUM_KILLS:
            # A header has some 330 bytes, a record of 3 samples 18.
            wanted = before + world * (400 + generator.randint(0, 150))
            wait_until(
                lambda wanted=wanted, ranks=ranks: (
                    num_logged_bytes(ledgers) >= wanted  # type: ignore[misc]
                    or not any(map(is_alive, ranks))
                )
            )
            generator.shuffle(ranks)
            num_kills += any(map(is_alive, ranks))
            for process in ranks:
                if is_alive(process):
                    process.send_signal(signal.SIGKILL)
            wait_until(lambda ranks=ranks: not any(map(is_alive, ranks)))  # type: ignore[misc]
        else:
            wait_until(lambda ranks=ranks: not any(map(is_alive, ranks)))  # type: ignore[misc]
        if (tmp_path / "done").exists():
            break
    report = iopipe.audit_ledgers([ledgers])
    assert report.is_exact, report
    assert [epoch.num_delivered for epoch in report.epochs] == [NUM_SAMPLES] * 2
    assert all(epoch.is_finished for epoch in report.epochs)
    assert num_kills == NUM_KILLS

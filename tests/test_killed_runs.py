"""Trainings whose processes are killed, 50 times: the ledgers prove that nothing was lost."""

from __future__ import annotations

import functools
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
    """A training that ended before its tenth kill is audited, and another one begun."""
    generator = random.Random(seed)
    with iopipe.DatasetWriter(tmp_path / "data") as writer:
        for number in range(NUM_SAMPLES):
            writer.write({"__key__": f"s{number:04d}", "bin": bytes([number % 256]) * 500})
    num_left, number = NUM_KILLS, 0
    while num_left:
        number += 1
        num_left -= one_training(tmp_path / f"{number}", num_left, generator, launch)


def one_training(
    folder: Path, most_kills: int, generator: random.Random, launch: Callable[..., psutil.Process]
) -> int:
    """Killed up to so many times, then left to end, and audited; how many times it was."""
    folder.mkdir()
    (folder / "data").symlink_to(folder.parent / "data")
    ledgers, num_kills, start = folder / "ledgers", 0, 0
    while not (folder / "done").exists():
        world, start = generator.randint(1, 3), start + 1
        before = num_logged_bytes(ledgers)
        ranks = [
            launch(
                folder=os.fspath(folder),
                rank=rank,
                world=world,
                start=start,
                save_every=generator.randint(1, 4),
                tail="pad",
            )
            for rank in range(world)
        ]
        if num_kills < most_kills:
            # A header has some 330 bytes, a record of 3 samples 18.
            wanted = before + world * (400 + generator.randint(0, 150))
            wait_until(functools.partial(has_logged, ledgers, wanted, ranks))
            generator.shuffle(ranks)
            num_kills += any(map(is_alive, ranks))
            for process in ranks:
                if is_alive(process):
                    process.send_signal(signal.SIGKILL)
        wait_until(functools.partial(are_gone, ranks))
    report = iopipe.audit_ledgers([ledgers])
    assert report.is_exact, report
    assert [epoch.num_delivered for epoch in report.epochs] == [NUM_SAMPLES] * 2
    assert all(epoch.is_finished for epoch in report.epochs)
    return num_kills


def has_logged(ledgers: Path, wanted: int, ranks: list[psutil.Process]) -> bool:
    return num_logged_bytes(ledgers) >= wanted or are_gone(ranks)


def are_gone(ranks: list[psutil.Process]) -> bool:
    return not any(map(is_alive, ranks))

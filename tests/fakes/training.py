"""Ranks of a training, forked from one warm process: `python training.py` reads orders.

Each line on standard input is a JSON object with the arguments of `train`; the answer is the
process id of the rank.  The ranks keep in step as a gradient exchange would keep them.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import iopipe


def train(folder: str, *, rank: int, world: int, start: int, save_every: int, tail: str) -> None:
    """Two epochs over the shards in `folder`, from the saved state on."""
    root = Path(folder)
    steps = _steps_of_all_ranks(root / f"steps-{start}", world)
    pipeline = iopipe.read(root / "data").shuffle(5).split(rank, world, tail=tail).batch(3)
    with pipeline.run(num_epochs=2, ledger=root / "ledgers") as run:
        if (root / "state.json").exists():
            run.load_state_dict(json.loads((root / "state.json").read_text()))
        for step, _ in enumerate(run, 1):
            steps[rank] = step
            while steps.min() < step:
                time.sleep(0.0002)
            if rank == 0 and step % save_every == 0:
                _save(root, run.state_dict())
    if rank == 0:
        (root / "done").touch()


def _steps_of_all_ranks(path: Path, world: int) -> np.ndarray:
    """int64 [world], shared by the processes."""
    with open(path, "a+b") as file:
        file.truncate(8 * world)
        return np.frombuffer(mmap.mmap(file.fileno(), 8 * world), np.int64)


def _save(root: Path, state: dict[str, object]) -> None:
    temporary = root / "state.tmp"
    temporary.write_text(json.dumps(state))
    temporary.rename(root / "state.json")


def main() -> None:
    assert iopipe.read and iopipe.Pipeline  # what a rank needs is imported once, before the forks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            sys.stdin.close()
            train(**json.loads(line))
            os._exit(0)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Two processes that train together, over gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch


def run_ranks(work: Callable[[int], Iterator[Any]], folder: Path) -> list[Any]:
    """What `work(rank)` gives last, by rank; up to its first `yield` there is no group yet."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rank, args=(work, rank, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _rank(work: Callable[[int], Iterator[Any]], rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    steps = work(rank)
    next(steps)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    # As launchers do: frameworks then start no processes, and take the group that they find.
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.update(NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0", OMP_NUM_THREADS="1")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2
    )
    try:
        Path(folder, f"{rank}.json").write_text(json.dumps(list(steps)[-1]))
    finally:
        torch.distributed.destroy_process_group()

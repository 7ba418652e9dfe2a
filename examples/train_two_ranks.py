"""Two ranks train together and stop; one goes on; the ledgers prove that nothing was lost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from torch.nn.functional import cross_entropy

import iopipe
from iopipe.meter.ranks import RankMeter, TorchExchange

NUM_SAMPLES = 203


def write_shards(folder: Path) -> None:
    generator = np.random.default_rng(0)
    with iopipe.DatasetWriter(folder, max_samples=50) as writer:
        for number in range(NUM_SAMPLES):
            point = generator.standard_normal(2, np.float32)
            label = int(point.sum() > 0)
            writer.write({"__key__": f"{number:04d}", "bin": point.tobytes(), "cls": label})


def as_point(sample: dict[str, Any]) -> dict[str, Any]:
    return {"point": np.frombuffer(sample["bin"], np.float32), "cls": int(sample["cls"])}


def train(folder: Path, rank: int, world: int) -> None:
    """One rank, from the saved state on; two of them stop after five steps."""
    meeting = f"file://{folder}/meeting-of-{world}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pipeline = iopipe.read(folder / "data").shuffle(seed=1).split(tail="pad").map(as_point).batch(8)
    pipeline.check_ranks()  # all of them see the same data in the same order
    state = folder / "state.json"
    with pipeline.run(ledger=folder / "ledgers") as run:
        if state.exists():
            run.load_state_dict(json.loads(state.read_text()))
        run.compare_ranks(RankMeter(TorchExchange()))
        for step, batch in enumerate(run, 1):
            losses = cross_entropy(model(batch["point"]), batch["cls"], reduction="none")
            optimizer.zero_grad()
            (losses * batch["__valid__"]).mean().backward()  # padding does not count
            optimizer.step()
            if (world, step) == (2, 5):
                break
        if rank == 0:
            state.write_text(json.dumps(run.state_dict()))  # in earnest, beside the model
        print(run.rank_stalls())
    distributed.destroy_process_group()


def main() -> float:
    """The share of the epoch's samples that were delivered, each exactly once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "data")
        for world in (2, 1):
            command = [sys.executable, __file__, name]
            ranks = [subprocess.Popen([*command, str(rank), str(world)]) for rank in range(world)]
            assert not any([process.wait() for process in ranks]), "a rank failed: see above"
        report = iopipe.audit_ledgers([folder / "ledgers"])
    assert report.is_exact, report
    return report.epochs[0].num_delivered / NUM_SAMPLES


if __name__ == "__main__":
    if sys.argv[1:]:
        train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        print(f"delivered exactly once: {main():.0%}")

"""A loader of somebody else's, measured: does the training step wait for it, and how much?

The same works for torch's DataLoader, a DALI iterator or a generator.  A whole script is
measured from outside by `iopipe profile -- python train.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

import iopipe

NUM_BATCHES = 40


def slow_loader() -> Iterator[np.ndarray]:
    """Batches that come from far away: each takes 6 ms."""
    for number in range(NUM_BATCHES):
        time.sleep(0.006)
        yield np.full((32, 64), number, np.float32)


def main() -> float:
    """The share of the time that the step waited for its batches."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    loader = iopipe.meter(slow_loader())  # on a GPU: iopipe.meter(loader, device="cuda")
    for batch in loader:
        optimizer.zero_grad()
        model(torch.from_numpy(batch)).square().mean().backward()
        optimizer.step()
        loader.step()  # optional: where the step ends, so that what follows is no part of it

    report = loader.report()
    print(report)
    return report.attributed_stall_fraction


if __name__ == "__main__":
    print(f"starved {100 * main():.0f} %")

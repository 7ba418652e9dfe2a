"""An ordinary training script whose DataLoader was replaced: only the import is another.

Then what that brings: what the training step waited for, and a resume within an epoch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from iopipe import DataLoader  # was: from torch.utils.data import DataLoader

NUM_SAMPLES = 400
NUM_CLASSES = 4


class Tones(Dataset[tuple[np.ndarray, int]]):
    """Short noisy tones; the class is the pitch."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        pitch = index % NUM_CLASSES
        wave = np.sin(2 * np.pi * (pitch + 2) * np.arange(64) / 64)
        noise = np.random.normal(0, 0.3, 64)
        return (wave + noise).astype(np.float32), pitch


def make_loader() -> DataLoader[tuple[np.ndarray, int]]:
    # seed= is iopipe's: order and noise then follow from seed, epoch and sample alone.
    return DataLoader(Tones(), batch_size=20, shuffle=True, num_workers=1, seed=3)


def main() -> float:
    """The share of right answers in the last batches, after an interruption."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, NUM_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accuracies = []

    def step(waves: torch.Tensor, pitches: torch.Tensor) -> None:
        logits = model(waves)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, pitches).backward()
        optimizer.step()
        accuracies.append(float((logits.argmax(dim=1) == pitches).float().mean()))

    loader = make_loader()
    for waves, pitches in loader:
        step(waves, pitches)
    for number, (waves, pitches) in enumerate(loader):
        step(waves, pitches)
        if number == 6:
            break
    state = loader.state_dict()  # JSON-able; save it with the model
    print(loader.report())

    resumed = make_loader()
    resumed.load_state_dict(state)
    for waves, pitches in resumed:  # the rest of the second epoch
        step(waves, pitches)
    assert len(accuracies) == 2 * NUM_SAMPLES // 20
    return sum(accuracies[-5:]) / 5


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")

"""A small convolutional network and its training step: which photograph is it?

Stands at the end of the demo's two loaders, which both feed it the same kind of batch:
uint8 pixels [b, height, width, 3] and int64 labels [b].
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import nn


class SmallNet(nn.Module):
    """Four convolutions, each halving the picture, then a mean and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = (3, 24, 32, 64, 96)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits [b, classes] from uint8 pixels [b, height, width, 3]."""
        planes = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        logits: torch.Tensor = self.head(self.features(planes).mean(dim=(2, 3)))
        return logits


class Trainer:
    """A model with its optimizer."""

    def __init__(self, num_classes: int, *, device: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.model = SmallNet(num_classes).to(device)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self._loss = torch.zeros((), device=device)

    def step(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """One training step; does not wait for the device."""
        pixels, labels = pixels.to(self.device), labels.to(self.device)
        loss = nn.functional.cross_entropy(self.model(pixels), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._loss = loss.detach()

    @property
    def loss(self) -> float:
        """Of the last step."""
        return float(self._loss)

    @torch.no_grad()
    def accuracy(self, batches: Iterable[dict[str, Any]]) -> float:
        """Share of right answers."""
        self.model.eval()
        num_right = num_seen = 0
        for batch in batches:
            answers = self.model(batch["jpg"].to(self.device)).argmax(dim=1)
            num_right += int((answers == batch["cls"].to(self.device)).sum())
            num_seen += len(answers)
        self.model.train()
        return num_right / num_seen

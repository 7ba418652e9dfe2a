"""The training step that feeds are compared in front of.

Stands at the end of every feed.  Invariant: one step takes pixels [b, 3, height, width] and int64
labels [b], both on its device, and waits for nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from iopipe.errors import MissingDependency

NETWORKS = ("resnet50", "resnet18", "tiny")
"""'tiny' is for machines without a GPU: it proves that a benchmark runs, and measures nothing."""
NUM_CLASSES = 1000


class Training:
    """A network and its optimizer: bfloat16 by autocast on a GPU, float32 elsewhere."""

    def __init__(
        self, network: str, *, device: str, compiled: bool = False, with_ranks: bool = False
    ) -> None:
        """`with_ranks` averages gradients over the ranks of torch.distributed (DDP)."""
        torch.manual_seed(0)
        self.device = torch.device(device)
        self._on_gpu = self.device.type == "cuda"
        # What cuDNN tries is decided at the first steps, which nobody times.
        torch.backends.cudnn.benchmark = True
        model = _made(network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=self._on_gpu
        )
        if with_ranks:
            model = _over_ranks(model, self.device)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = (
            torch.compile(model) if compiled else model
        )
        self._parameters = list(model.parameters())
        self._loss = torch.zeros((), device=self.device)

    def step(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Forward, backward and update; enqueued, not waited for."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._on_gpu):
            loss = nn.functional.cross_entropy(self._forward(pixels), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._loss = loss.detach()

    def synchronize(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self.device)

    @property
    def loss(self) -> float:
        """Of the last step; waits for it."""
        return float(self._loss)

    def state_dict(self) -> dict[str, Any]:
        """Parameters alone, by number; on the host."""
        return {str(number): p.detach().cpu() for number, p in enumerate(self._parameters)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, parameter in enumerate(self._parameters):
            parameter.copy_(state[str(number)])


def _over_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """Each rank keeps its own batch statistics; torch 2.13 has another name for that."""
    kind: Any = nn.parallel.DistributedDataParallel
    names = inspect.signature(kind).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    made: nn.Module = kind(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{sync: False},
    )
    return made


def _made(network: str) -> nn.Module:
    if network == "tiny":
        return _tiny()
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingDependency("ResNets need torchvision: pip install 'iopipe[peers]'") from error
    made: nn.Module = getattr(models, network)(num_classes=NUM_CLASSES)
    return made


def _tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, NUM_CLASSES),
    )

"""The callback in a real Trainer: scalars at Lightning's steps, outputs closed at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from iopipe.errors import MissingDependency
from iopipe.report.lightning import meter_callback
from iopipe.report.metrics import scalars_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(lightning|torchmetrics).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(lightning|torchmetrics).*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]


class _Output:
    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.num_closed = 0

    def show(self, content: Mapping[str, Any]) -> None:
        self.shown.append(content["num_steps"])

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture(autouse=True)
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a report takes on this machine."""
    monkeypatch.setattr("iopipe.report.live._LEAST_PAUSE", 0)


def _trained(callback: Any, *, fails_at: int | None = None) -> list[tuple[dict[str, Any], int]]:
    """What the trainer's logger was given."""
    import lightning
    from lightning.pytorch.loggers.logger import DummyLogger

    logged: list[tuple[dict[str, Any], int]] = []

    class Logger(DummyLogger):
        def log_metrics(self, metrics: Any, step: Any = None, **rest: Any) -> None:
            logged.append((dict(metrics), step))

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            if index == fails_at:
                raise RuntimeError("a bad batch")
            return self.layer(batch[:, None]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, enable_checkpointing=False, logger=Logger(),
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.arange(8.0), batch_size=2))
    return [entry for entry in logged if "iopipe/steps" in entry[0]]


def _callback(output: _Output) -> tuple[Any, list[dict[str, Any]]]:
    reports: list[dict[str, Any]] = []

    def report() -> dict[str, Any]:
        reports.append({"schema": 1, "num_steps": len(reports), "causes": {"decode": 0.25}})
        return reports[-1]

    return meter_callback(report, outputs=[output], every_seconds=1e-9), reports


def test_each_step_and_the_end_are_logged() -> None:
    output = _Output()
    callback, reports = _callback(output)
    logged = _trained(callback)
    assert [step for _, step in logged] == [1, 2, 3, 4, 4]
    assert [scalars for scalars, _ in logged] == [scalars_of(one) for one in reports]
    assert output.shown == [0, 1, 2, 3, 4] and output.num_closed == 1


def test_outputs_are_closed_when_training_fails() -> None:
    output = _Output()
    callback, _ = _callback(output)
    with pytest.raises(RuntimeError, match="a bad batch"):
        _trained(callback, fails_at=2)
    assert output.shown == [0, 1] and output.num_closed == 1


def test_without_lightning_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch.callbacks", None)
    with pytest.raises(MissingDependency, match=r"iopipe\[lightning\]"):
        meter_callback(dict)

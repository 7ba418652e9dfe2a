"""A Lightning callback: shows reports while a Trainer trains, also in its own loggers.

Stands between `live` and Lightning, opt-in.  Invariant: it never changes what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from iopipe.errors import MissingDependency
from iopipe.report.content import Reported
from iopipe.report.live import Content, Live, Output
from iopipe.report.metrics import scalars_of


def meter_callback(
    report: Callable[[], Reported | Content],
    *,
    outputs: Sequence[Output] = (),
    every_seconds: float = 10.0,
) -> Any:
    """A `lightning.pytorch.Callback` that calls `Live.step` after each training batch.

    `report` is a meter's or a run's; its scalars go to the trainer's loggers at the trainer's
    step.  `outputs` are closed when training ends, also by an exception.
    `MissingDependency` without Lightning.
    """
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError as error:
        raise MissingDependency(
            "iopipe.report.lightning needs lightning: pip install 'iopipe[lightning]'"
        ) from error
    loggers = _Loggers()
    live = Live(report, [*outputs, loggers], every_seconds=every_seconds)

    class MeterCallback(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
            loggers.trainer = trainer
            live.step()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            loggers.trainer = trainer
            try:
                live.show()
            finally:
                live.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            live.close()

    return MeterCallback()


class _Loggers:
    """All loggers of a trainer as one output."""

    def __init__(self) -> None:
        self.trainer: Any = None

    def show(self, content: Content) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars_of(content), step=self.trainer.global_step)

    def close(self) -> None:
        """Loggers are the trainer's."""

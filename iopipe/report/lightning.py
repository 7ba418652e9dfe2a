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

try:
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise MissingDependency(
        "iopipe.report.lightning needs lightning: pip install 'iopipe[lightning]'"
    ) from error


class MeterCallback(Callback):
    """Calls `Live.step` after each training batch and logs the scalars at Lightning's step.

    `report` is a meter's or a run's; `outputs` are closed when the training is over, also
    by an exception.
    """

    def __init__(
        self,
        report: Callable[[], Reported | Content],
        *,
        outputs: Sequence[Output] = (),
        every_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        self._loggers = _Loggers()
        self._live = Live(report, [*outputs, self._loggers], every_seconds=every_seconds)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        self._loggers.trainer = trainer
        self._live.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._loggers.trainer = trainer
        self._live.show()
        self._live.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._live.close()


class _Loggers:
    """All loggers of a trainer as one output."""

    def __init__(self) -> None:
        self.trainer: Any = None

    def show(self, content: Content) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars_of(content), step=self.trainer.global_step)

    def close(self) -> None:
        """Loggers are the trainer's."""

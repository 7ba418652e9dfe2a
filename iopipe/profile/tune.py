"""`iopipe tune pipeline FILE:NAME`: some steps of a pipeline of the user's, tuned while they run.

Stands behind the command line, beside `diagnose`.  Invariant: the user's step is called as in
training, on every batch once; what is found is printed with its evidence, and kept in a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iopipe.autotune.tuner import Tuning
from iopipe.ceiling import measure_storage
from iopipe.errors import PipelineError
from iopipe.meter.report import Report
from iopipe.profile.loading import found_in
from iopipe.storage.ceiling import Ceiling, ceiling_of_bench


def tune(
    target: str,
    *,
    step: str = "train_step",
    num_steps: int = 200,
    out: str | os.PathLike[str] | None = None,
    ceiling: float | str | None = None,
    on_decision: Callable[[str], None] = lambda line: None,
) -> tuple[Tuning, Report]:
    """Run the pipeline that `target` names for `num_steps` steps, over as many epochs as that
    takes: what the tuner found, and the report of all these steps.

    `on_decision` is told of every decision when it is made; `out` is a file for
    `Pipeline.tuned`; `ceiling` says how the storage's is known: seconds to measure it for, or a
    file of `iopipe bench storage`.  A loader of torch's is tuned by `DataLoader(tune="auto")`.
    """
    pipeline, function = found_in(target, step=step)
    if not hasattr(pipeline, "tuned"):
        raise PipelineError(
            f"{target!r} is a {type(pipeline).__name__}, no pipeline: a DataLoader is tuned while "
            'it runs, by iopipe.DataLoader(..., tune="auto")'
        )
    if num_steps < 1:
        raise PipelineError(f"steps is {num_steps}; it must be at least 1")
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise PipelineError(f"{os.fspath(out)!r} lies in no folder: make it before")
    known = _ceiling(pipeline, ceiling)
    found, report = _tuned(pipeline, function, num_steps, known, on_decision)
    if out is not None:
        found.setting.save(out, decisions=found.to_json())
    return found, report


def _ceiling(pipeline: Any, ceiling: float | str | None) -> Ceiling | None:
    if ceiling is None:
        return None
    if isinstance(ceiling, str):
        return ceiling_of_bench(ceiling)
    if not 0 < ceiling < math.inf:
        raise PipelineError(f"ceiling is {ceiling:g}: give more than 0 seconds to measure it for")
    return measure_storage(pipeline, seconds=ceiling, epoch=1)  # the run begins with epoch 0


def _tuned(
    pipeline: Any,
    function: Callable[[Any], None],
    num_steps: int,
    ceiling: Ceiling | None,
    on_decision: Callable[[str], None],
) -> tuple[Tuning, Report]:
    with pipeline.run() as run:  # without end an empty one would be looked through for ever
        if next(run, None) is None:
            raise PipelineError("the pipeline gives no batches: there is nothing to tune")
    with pipeline.run(num_epochs=None, tune="auto", ceiling=ceiling) as run:
        num_told = 0
        for number, batch in enumerate(run, 1):
            function(batch)
            run.step()
            found: Tuning = run.tuning()
            for at, decision in found.decisions[num_told:]:
                on_decision(f"step {at}: {decision}")
            num_told = len(found.decisions)
            if number == num_steps:
                break
        return found, run.report()

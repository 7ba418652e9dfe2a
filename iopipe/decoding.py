"""The decode stage, whichever engine does it.

Stands between the builder and the decoders, which it knows through the `Toolkit` alone.
Invariant: what an engine cannot do is said when the pipeline is built or a run begins, never
in the middle of one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from iopipe.errors import PipelineError
from iopipe.stages import ImageOptions, Stage, Toolkit

_BATCHES_AT_ONCE = 2
"""Of an engine with threads of its own: one is decoded while the next one is handed to it."""


def decode_stage(toolkit: Toolkit, options: ImageOptions, concurrency: int | None) -> Stage:
    """The stage for `options`; `concurrency` None: as its engine wants it."""
    function = toolkit.decoder(options)
    if options.engine == "cpu":
        return Stage(
            name="decode",
            function=function,
            takes="samples",
            cause="decode",
            scales=True,
            fills=True,
            concurrency=concurrency or len(os.sched_getaffinity(0)),
        )
    return Stage(
        name=f"decode by {options.engine}",
        function=function,
        takes="samples",
        cause="decode",
        fills=True,
        concurrency=concurrency or _BATCHES_AT_ONCE,
        open=partial(toolkit.engine, options),
        whole_batches=True,
    )


def check_engines(stages: Sequence[Stage], device: str, num_workers: int) -> None:
    """`PipelineError` where an engine cannot run among these stages."""
    of_samples = [stage for stage in stages if stage.takes == "samples"]
    for stage in of_samples:
        if stage.open is None:
            continue
        if num_workers:
            raise PipelineError(f"{stage.name} happens in this process: leave workers out")
        if device != "cpu" and stage is not of_samples[-1]:
            raise PipelineError(
                f"what comes after {stage.name} would not see the images, which are on {device}: "
                "call map before decode, or work on them in the step"
            )

"""A pipeline with its knobs where a tuner left them.

Stands beside the builder.  Invariant: a setting changes how fast a pipeline is, so that what it
may name is threads, room and sizes of reads, and nothing that decides what is delivered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar

from iopipe.autotune.budget import Budget, system_budget
from iopipe.autotune.setting import Setting
from iopipe.errors import PipelineError
from iopipe.knobs import CHUNK, PREFETCH, READ_AHEAD, WORKERS, ChunkSize, threads_of
from iopipe.one_pass import TuneSpec
from iopipe.sizing import Sized, chunk_samples_of, is_cut
from iopipe.stages import Stage


class Tunable(Sized, Protocol):
    """What is asked of a pipeline, and may be replaced in it."""

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def device(self) -> str | None: ...


T = TypeVar("T", bound=Tunable)


def tune_spec(pipeline: Tunable, tune: Literal["auto"] | Budget, batches_together: int) -> TuneSpec:
    """How its run is tuned; `PipelineError` where it cannot be."""
    if pipeline.batch_size is None:
        raise PipelineError("tune is about batches; call batch(n) before run")
    if not (tune == "auto" or isinstance(tune, Budget)):
        raise PipelineError(f"tune is {tune!r}: give 'auto', a Budget or None")
    chunk = None
    if pipeline.groups is None and is_cut(pipeline, batches_together):
        samples = chunk_samples_of(pipeline, batches_together)
        chunk = ChunkSize(samples, most=pipeline.batch_size)
    return TuneSpec(
        budget=tune if isinstance(tune, Budget) else system_budget(),
        shape=shape_of(pipeline),
        chunk=chunk,
        is_pinned=(pipeline.device or "cpu") != "cpu",
    )


def shape_of(pipeline: Tunable) -> dict[str, Any]:
    """What a setting belongs to: all that decides which knobs there are and what they are worth."""
    return {
        "stages": [stage.name for stage in pipeline.stages],
        "batch_size": pipeline.batch_size,
        "is_packed": pipeline.groups is not None,
        "has_workers": pipeline.num_workers > 0,
        "device": (pipeline.device or "cpu").partition(":")[0],
    }


def with_setting(pipeline: T, setting: Setting) -> T:
    """The same pipeline, its knobs set; `PipelineError` where they are another pipeline's."""
    setting.check_shape(shape_of(pipeline))
    fields = {
        PREFETCH: "prefetch",
        CHUNK: "chunk_samples",
        READ_AHEAD: "read_ahead_bytes",
        WORKERS: "num_workers",
        threads_of("read"): "read_threads",
    }
    changed: dict[str, Any] = {
        fields[name]: value for name, value in setting.values.items() if name in fields
    }
    threads = {name: value for name, value in setting.values.items() if name not in fields}
    stages = _with_threads(pipeline.stages, threads)
    return replace(pipeline, stages=stages, **changed)  # type: ignore[type-var]


def _with_threads(stages: Sequence[Stage], threads: Mapping[str, int]) -> tuple[Stage, ...]:
    known = {threads_of(stage.name) for stage in stages if stage.scales}
    if unknown := sorted(threads.keys() - known):
        raise PipelineError(
            f"the setting names {', '.join(unknown)}, this pipeline may be set in "
            f"{', '.join(sorted(known)) or 'no threads of stages'}"
        )
    return tuple(
        replace(stage, concurrency=threads.get(threads_of(stage.name), stage.concurrency))
        for stage in stages
    )

"""From a pipeline to its run: what is opened, started and allocated, and by whom.

Stands between the builder and the run.  Invariant: nothing here happens before `run` is called;
the functions of a spec are called once a run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, get_args

from iopipe.autotune.budget import Budget
from iopipe.binding import bound_stages
from iopipe.errors import PipelineError
from iopipe.one_pass import RunSpec
from iopipe.order import Cursor
from iopipe.protocols import ErrorPolicy, Source, Store
from iopipe.run import Run
from iopipe.sizing import batches_together, num_read_threads, plan_of
from iopipe.stages import Delivery, DeliveryOptions, Numa, Route, Stage, Toolkit, Workers
from iopipe.storage.ceiling import Ceiling
from iopipe.tuned import Tunable, tune_spec


class Launched(Tunable, Protocol):
    """What is asked of a pipeline."""

    @property
    def toolkit(self) -> Toolkit: ...

    @property
    def store(self) -> Store | None: ...

    @property
    def device(self) -> str | None: ...

    @property
    def numa(self) -> Numa | None: ...

    @property
    def prefetch(self) -> int: ...

    @property
    def read_ahead_bytes(self) -> int | None: ...

    @property
    def on_error(self) -> ErrorPolicy: ...

    @property
    def max_errors(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What is asked of one run; see `Pipeline.run`."""

    epoch: int
    end_epoch: int | None
    window: int | None
    """None: batches come in order."""
    ledger: str | os.PathLike[str] | None
    tune: Literal["auto"] | Budget | None
    ceiling: Ceiling | None

    def __post_init__(self) -> None:
        if self.epoch < 0 or (self.end_epoch is not None and self.end_epoch < self.epoch):
            num_epochs = None if self.end_epoch is None else self.end_epoch - self.epoch
            raise PipelineError(
                f"epoch is {self.epoch} and num_epochs {num_epochs}: give whole numbers >= 0"
            )


def launched(pipeline: Launched, options: RunOptions) -> Run:
    """A run of a pipeline whose route is decided."""
    is_direct = pipeline.route == "direct"
    source, ahead = _read_source(pipeline), num_ahead(pipeline)
    stages = () if is_direct else pipeline.stages
    together = batches_together(pipeline) if options.window is None else 1
    tune = None if options.tune is None else tune_spec(pipeline, options.tune, together)
    spec = RunSpec(
        source=source,
        plan=plan_of(
            pipeline, options.end_epoch, together, live_chunk=tune.chunk if tune else None
        ),
        stages=partial(
            bound_stages,
            source,
            stages,
            prefetch=pipeline.prefetch,
            read_threads=num_read_threads(pipeline),
            device=pipeline.device or "cpu",
        ),
        workers=partial(_workers, pipeline) if pipeline.num_workers else None,
        open_store=partial(_store, pipeline, is_direct),
        owns_store=pipeline.store is None,
        delivery=None if pipeline.batch_size is None else partial(_delivery, pipeline, is_direct),
        batch_size=pipeline.batch_size,
        policy=pipeline.on_error,
        max_errors=pipeline.max_errors,
        window=options.window,
        read_ahead=partial(pipeline.toolkit.read_ahead, num_bytes=ahead) if ahead else None,
        ledger=options.ledger,
        near=partial(pipeline.toolkit.near, pipeline.device or "cpu") if pipeline.numa else None,
        tune=tune,
        ceiling=options.ceiling,
    )
    return Run(spec, cursor=Cursor(epoch=options.epoch))


def decided(pipeline: Launched) -> tuple[Route, str]:
    """The route that a run takes, and why; measures where it is to be decided here."""
    if pipeline.route != "auto":
        return pipeline.route, ""
    return pipeline.toolkit.decide(pipeline.source, pipeline.device or "cpu", _first_ids(pipeline))


def check_place(pipeline: Launched) -> None:
    """`PipelineError` where batches cannot come to the device as it was asked for."""
    if pipeline.route not in get_args(Route) or pipeline.numa not in (None, "auto"):
        raise PipelineError(
            f"path is {pipeline.route!r} and numa {pipeline.numa!r}: give 'slots', 'direct' or "
            "'auto', and 'auto' or None"
        )
    reason = "" if pipeline.route == "slots" else _obstacle(pipeline)
    if reason:
        raise PipelineError(f"path={pipeline.route!r} reads into the device's memory: {reason}")


def num_ahead(pipeline: Launched) -> int:
    """Bytes to read ahead."""
    given = 0 if pipeline.num_workers else pipeline.read_ahead_bytes
    return given if given is not None else pipeline.toolkit.default_read_ahead(pipeline.source)


def _obstacle(pipeline: Launched) -> str:
    if pipeline.groups is not None or any(stage.name != "decode" for stage in pipeline.stages):
        return "leave out map and pack, or use path='slots'"
    if getattr(pipeline.source, "decodes_spans", False) != bool(pipeline.stages):
        return (
            "call decode() for .npy and .safetensors members of tar shards, and leave it out for "
            "other data"
        )
    if pipeline.num_workers or num_ahead(pipeline):
        return "leave out workers(...) and read_ahead(...)"
    if pipeline.order.tail == "pad":
        return "give another tail than 'pad'"
    if pipeline.token_options is not None and pipeline.token_options.resident:
        return "leave out resident=True, which reads them once"
    if getattr(pipeline.source, "row_spans", None) is None:
        return (
            "give a source whose rows are numbers of one shape: Arrow IPC, windows of token "
            "files, or .npy members of tar shards; or use path='slots'"
        )
    only_direct = [name for name in pipeline.source.columns if name.endswith("safetensors")]
    if only_direct and pipeline.route == "auto":
        return f"decode() leaves {only_direct} as they are on the host: use path='direct'"
    return ""


def _first_ids(pipeline: Launched) -> Sequence[Sequence[int]]:
    """Of the first tasks, which are taken to be like all others."""
    tasks = plan_of(pipeline, 1, batches_together(pipeline)).tasks(Cursor())
    return [task.ids.tolist() for task, _ in zip(tasks, range(4), strict=False)]


def _read_source(pipeline: Launched) -> Source:
    """What a run reads: only where windows begin, where the device has their tokens."""
    is_resident = pipeline.token_options is not None and pipeline.token_options.resident
    return pipeline.toolkit.starts(pipeline.source) if is_resident else pipeline.source


def _store(pipeline: Launched, is_direct: bool) -> Store:
    if pipeline.store is not None:
        return pipeline.store
    if is_direct:
        return pipeline.toolkit.open_device_store(pipeline.source)
    return pipeline.toolkit.open_store(pipeline.source)


def _delivery(pipeline: Launched, is_direct: bool) -> Delivery:
    options = DeliveryOptions(
        device=pipeline.device or "cpu",
        is_shared=pipeline.num_workers > 0,
        is_direct=is_direct,
        numa=pipeline.numa,
        next_token=pipeline.token_options,
    )
    return pipeline.toolkit.delivery(options, pipeline.source)


def _workers(pipeline: Launched) -> Workers:
    stages: list[Stage] = [stage for stage in pipeline.stages if stage.takes == "samples"]
    return pipeline.toolkit.workers(
        pipeline.source,
        stages,
        store=pipeline.store,
        num_workers=pipeline.num_workers,
        seed=pipeline.order.sequence.seed,
        near=(pipeline.device or "cpu") if pipeline.numa else None,
    )

"""`iopipe shard` and `iopipe convert`: arguments to options, progress to the terminal.

Stands between the command line and the job.  Invariant: an option that the user gave and
that has no effect is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from iopipe.errors import PipelineError
from iopipe.jobs.job import JobReport, Progress, plan_shards, shard
from iopipe.jobs.options import ShardOptions
from iopipe.jobs.plan import Plan
from iopipe.jobs.transform import TransformSpec

_UNITS = {"": 1, "k": 1000, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SHOWN_TASKS = 5


def add_arguments(parser: argparse.ArgumentParser, *, shuffles: bool) -> None:
    """Fill the parser of a command; `convert` is `shard` without the shuffle."""
    parser.add_argument("source", nargs="+", help="shards, a folder, a pattern or a manifest")
    parser.add_argument("destination", help="an empty folder, or a URL")
    parser.add_argument("--format", default="webdataset", help="of the shards that are written")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-samples", type=int, metavar="N")
    size.add_argument("--shard-bytes", type=size_in_bytes, default=256 << 20, metavar="SIZE")
    if shuffles:
        parser.add_argument("--shuffle-seed", type=int, metavar="SEED")
        parser.add_argument(
            "--shuffle-method", choices=("auto", "direct", "external"), default="auto"
        )
        parser.add_argument("--copies", type=int, default=1, metavar="N")
    parser.add_argument("--columns", type=_names, metavar="A,B")
    parser.add_argument("--map", action="append", default=[], metavar="MODULE:FUNCTION")
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="of an image's shorter side")
    parser.add_argument("--quality", type=int, metavar="1..100", help="of the JPEG written")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizers JSON, or tiktoken:NAME")
    parser.add_argument("--text-field", metavar="NAME")
    parser.add_argument("--end-of-text", metavar="TOKEN")
    parser.add_argument("--split", type=_splits, default=(), metavar="train=0.98,val=0.02")
    parser.add_argument("--dedup-exact", action="store_true")
    parser.add_argument("--compression", choices=("lz4", "zstd"))
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise")
    parser.add_argument("--max-errors", type=int, default=100, metavar="N")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--ray-address", metavar="ADDRESS")
    parser.add_argument("--workers", type=int, metavar="N", help="by default one a CPU")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    """Run `shard` or `convert`; the exit code."""
    options = _options(arguments)
    if arguments.dry_run:
        plan = plan_shards(arguments.source, options)
        print(plan_json(plan) if arguments.json else "\n".join(_plan_lines(plan)))
        return 0
    if arguments.ray_address and arguments.engine != "ray":
        raise PipelineError("--ray-address needs --engine ray")
    report = _run(arguments, options)
    if arguments.json:
        print(json.dumps({"schema": 1, **_as_dict(report)}, indent=1))
    else:
        print(
            f"{report.num_samples:,} samples in {report.num_shards:,} shards, "
            f"{report.num_bytes:,} bytes, {report.num_rejected:,} rejected, "
            f"{report.seconds:.1f} s"
        )
    return 0


def _options(arguments: argparse.Namespace) -> ShardOptions:
    if arguments.map and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where the user's module lies; workers get this path
    transforms = [TransformSpec(name="map", options={"function": name}) for name in arguments.map]
    if arguments.resize is not None or arguments.quality is not None:
        images = {"resize": arguments.resize, "quality": arguments.quality}
        transforms.append(TransformSpec(name="images", options=images))
    if arguments.tokenizer is not None:
        text = {
            "tokenizer": arguments.tokenizer,
            "field": arguments.text_field,
            "end_of_text": arguments.end_of_text,
        }
        transforms.append(TransformSpec(name="tokenise", options=text))
    elif arguments.text_field or arguments.end_of_text:
        raise PipelineError("--text-field and --end-of-text need --tokenizer")
    shuffle = getattr(arguments, "shuffle_seed", None)
    return ShardOptions(
        format=arguments.format,
        shard_samples=arguments.shard_samples,
        shard_bytes=arguments.shard_bytes,
        shuffle_seed=shuffle,
        shuffle_method=getattr(arguments, "shuffle_method", "auto"),
        copies=getattr(arguments, "copies", 1),
        columns=arguments.columns,
        transforms=tuple(transforms),
        splits=arguments.split,
        dedup=arguments.dedup_exact,
        compression=arguments.compression,
        on_error=arguments.on_error,
        max_errors=arguments.max_errors,
    )


def _run(arguments: argparse.Namespace, options: ShardOptions) -> JobReport:
    """The job, with a bar on standard error: shards, bytes, rate, time left."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    begun = time.monotonic()
    start: Progress | None = None
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("shards", total=None)

        def show(progress: Progress) -> None:
            nonlocal start
            start = start or progress
            rate = (progress.num_bytes - start.num_bytes) / max(time.monotonic() - begun, 1e-3)
            done = (
                f"shards, {progress.num_samples:,} samples, {progress.num_bytes / 1e6:,.0f} MB, "
                f"{rate / 1e6:,.0f} MB/s"
            )
            bar.update(
                task, total=progress.num_tasks, completed=progress.num_done, description=done
            )

        return shard(
            arguments.source,
            arguments.destination,
            options,
            engine=arguments.engine,
            num_workers=arguments.workers,
            ray_address=arguments.ray_address,
            on_progress=show,
        )


def _plan_lines(plan: Plan) -> Iterator[str]:
    yield (
        f"{plan.num_tasks:,} shards of {plan.samples_per_shard:,} samples, "
        f"shuffle seed {plan.shuffle_seed}"
    )
    for output in plan.outputs:
        folder = output.folder or "."
        yield f"{folder}: {output.num_samples:,} samples in {plan.num_shards(output):,} shards"
    for task in islice(plan.tasks(), _SHOWN_TASKS):
        place = "/".join(part for part in (task.output.folder, f"shard-{task.shard:06d}") if part)
        yield f"  {place}: positions {task.first:,} to {task.last - 1:,}"
    if plan.num_tasks > _SHOWN_TASKS:
        yield f"  ... and {plan.num_tasks - _SHOWN_TASKS:,} more"


def plan_json(plan: Plan) -> str:
    content = {
        "schema": 1,
        "samples_per_shard": plan.samples_per_shard,
        "shuffle_seed": plan.shuffle_seed,
        "outputs": [
            {"folder": output.folder, "num_samples": output.num_samples} for output in plan.outputs
        ],
        "tasks": [[task.output.folder, task.shard, task.first, task.last] for task in plan.tasks()],
    }
    return json.dumps(content)


def _as_dict(report: JobReport) -> dict[str, Any]:
    return {
        "num_shards": report.num_shards,
        "num_samples": report.num_samples,
        "num_bytes": report.num_bytes,
        "num_rejected": report.num_rejected,
        "seconds": report.seconds,
    }


def size_in_bytes(text: str) -> int:
    """'256MiB', '1GB', '5000'."""
    lower = text.lower().removesuffix("b")
    digits = lower.rstrip("kmgi")
    try:
        return round(float(digits) * _UNITS[lower[len(digits) :]])
    except (ValueError, KeyError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 256MiB or 1GB") from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _splits(text: str) -> tuple[tuple[str, float], ...]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return tuple((name, float(share)) for name, share in pairs)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write train=0.98,val=0.02") from error

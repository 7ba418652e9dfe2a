"""`iopipe bench storage`: arguments to grids, findings to tables and files.

Stands between the command line and the benchmark.  Invariant: an option that the user gave and
that has no effect is an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from iopipe.bench.storage.backends import backends_for
from iopipe.bench.storage.check import verifier_for
from iopipe.bench.storage.jobs import (
    ACCESSES,
    BACKENDS,
    CACHES,
    DESTINATIONS,
    LOCAL_BACKENDS,
    BackendName,
    Grid,
    Job,
    in_binary,
    names_of,
)
from iopipe.bench.storage.results import content_of, read_json, write_json
from iopipe.bench.storage.rows import Row
from iopipe.bench.storage.surroundings import surroundings
from iopipe.bench.storage.sweep import Effort, Findings, sweep
from iopipe.bench.storage.table import print_table
from iopipe.bench.storage.targets import Target, target_of
from iopipe.bench.storage.workloads import ACCELERATORS, WORKLOAD_NAMES
from iopipe.errors import PipelineError
from iopipe.jobs.command import size_in_bytes

_Value = TypeVar("_Value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="*",
        metavar="PATH_OR_URL",
        help="a folder gets a test file of its own; files, patterns and URLs are read as they are",
    )
    parser.add_argument("--size", type=size_in_bytes, help="of the test file (1GiB)")
    axes = parser.add_argument_group("what is measured")
    axes.add_argument("--backends", type=_list_of(_one_of(BACKENDS)), metavar="A,B")
    axes.add_argument("--block-sizes", type=_list_of(size_in_bytes), metavar="4KiB,1MiB")
    axes.add_argument("--queue-depths", type=_list_of(int), metavar="1,8")
    axes.add_argument("--access", type=_list_of(_one_of(ACCESSES)), metavar=names_of(ACCESSES))
    axes.add_argument(
        "--destinations", type=_list_of(_one_of(DESTINATIONS)), metavar=names_of(DESTINATIONS)
    )
    axes.add_argument("--cache", type=_list_of(_one_of(CACHES)), metavar="cold,warm")
    axes.add_argument(
        "--io", type=_list_of(_one_of(("direct", "buffered"))), metavar="direct,buffered"
    )
    axes.add_argument("--batch", type=int, help="requests handed over at once")
    effort = parser.add_argument_group("how long")
    effort.add_argument("--seconds", type=float, help="of a run, at most (1)")
    effort.add_argument("--repeats", type=int, help="rounds over all jobs (3)")
    effort.add_argument("--budget", type=float, help="seconds, a target (120)")
    effort.add_argument("--verify", action="store_true", help="compare every byte")
    output = parser.add_argument_group("results")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    other = parser.add_argument_group("instead of a sweep")
    other.add_argument("--quick", action="store_true", help="one sentence in 30 seconds")
    other.add_argument("--sample-bytes", type=size_in_bytes, help="with --quick: of one sample")
    other.add_argument("--compare", type=Path, nargs=2, metavar=("A.json", "B.json"))
    other.add_argument("--workload", choices=WORKLOAD_NAMES, help="of MLPerf Storage and others")
    other.add_argument("--accelerator", choices=ACCELERATORS, help="(h100)")
    other.add_argument("--num-accelerators", type=int, help="so many; the largest that pass")
    other.add_argument("--to-gpu", action="store_true", help="deliver into the GPU, real kernels")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """One of the modes; the exit code."""
    # Into a file or a pipe a line is as long as it needs to be.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    mode = _mode(options)
    _fill_in(options)
    if mode == "compare":
        from iopipe.bench.storage.compare import compare, print_comparison

        first, second = (read_json(path) for path in options.compare)
        print_comparison(console, compare(first, second))
        return 0
    if not options.target:
        raise PipelineError("give at least one folder, file or URL to read from")
    if mode == "quick":
        from iopipe.bench.storage.quick import quick

        answer = quick(options.target, sample_bytes=options.sample_bytes)
        console.print(answer.sentence, soft_wrap=True, markup=False)
        if options.json:
            write_json(options.json, answer.as_json())
        return 0
    if mode == "workload":
        from iopipe.bench.storage.emulation import run_workload

        return run_workload(options, console)
    return _sweep(options, console)


def _sweep(options: argparse.Namespace, console: Console) -> int:
    effort = Effort(
        seconds=options.seconds,
        repeats=options.repeats,
        budget_seconds=options.budget,
        verifies=options.verify,
    )
    findings = Findings()
    _jobs_of(options, options.backends or LOCAL_BACKENDS, in_memory=False)  # before files are made
    with ExitStack() as stack:
        targets = []
        for name in options.target:
            target = stack.enter_context(target_of(name, size_bytes=options.size))
            if options.verify:
                verifier_for(target)
            targets.append(target)
        about = surroundings(targets[0])
        for target in targets:
            backends = options.backends or backends_for(target)
            jobs = _jobs_of(options, backends, in_memory=target.in_memory)
            for backend in set(backends) - {job.backend for job in jobs}:
                findings.skip(target, f"backend {backend}", "no job of what was asked for suits it")
            print(f"{_about(target)}: {len(jobs)} jobs", file=sys.stderr)
            sweep(target, jobs, effort, findings=findings, on_row=_tell)
    content = content_of(
        findings.rows, findings.skipped, environment=about, command=_command(options)
    )
    print_table(console, content["rows"], findings.skipped)
    _write(options, content)
    if not findings.rows:
        print("iopipe: nothing of what was asked for can be measured here", file=sys.stderr)
        return 1
    return 0


def _jobs_of(
    options: argparse.Namespace, backends: Sequence[BackendName], *, in_memory: bool
) -> list[Job]:
    given = {
        "block_bytes": options.block_sizes,
        "queue_depths": options.queue_depths,
        "accesses": options.access,
        # Those that this machine has not are said to be skipped.
        "destinations": options.destinations or ("host", "pinned", "gpu"),
        "caches": options.cache,
        "direct": options.io and tuple(one == "direct" for one in options.io),
        "batch": options.batch,
    }
    grid = Grid(backends=backends, **{name: one for name, one in given.items() if one is not None})
    jobs = grid.jobs(in_memory=in_memory)
    if not jobs:
        raise PipelineError(
            f"no job is left for backends {names_of(backends)}: gds reads into the gpu only, "
            "mapped into the host only, posix is buffered, direct is not"
        )
    return jobs


def _about(target: Target) -> str:
    kind = "own file" if target.seed is not None else f"{len(target.files)} files"
    return f"{target.name.partition('?')[0]}: {kind}, {in_binary(target.num_bytes)}"


def _tell(row: Row) -> None:
    print(f"{row.job}: {row.gbps:.3f} GB/s", file=sys.stderr)


def _write(options: argparse.Namespace, content: dict[str, Any]) -> None:
    if options.json:
        write_json(options.json, content)
    if options.html:
        from iopipe.bench.storage.html import write_page

        write_page(options.html, content)


def _command(options: argparse.Namespace) -> str:
    """As it was given, without folders and what a URL may hide."""
    words = ["iopipe bench storage", *("PATH_OR_URL" for _ in options.target)]
    for name in ("backends", "block_sizes", "queue_depths", "access", "destinations", "cache"):
        if (value := getattr(options, name)) is not None:
            words.append(f"--{name.replace('_', '-')} {','.join(map(str, value))}")
    if options.io:
        words.append(f"--io {','.join(options.io)}")
    if options.batch is not None:
        words.append(f"--batch {options.batch}")
    words.append(f"--size {options.size} --seconds {options.seconds:g}")
    words.append(f"--repeats {options.repeats} --budget {options.budget:g}")
    return " ".join(words + ["--verify"] * options.verify)


def _mode(options: argparse.Namespace) -> str:
    """Which of the modes; `PipelineError` where options of several are mixed."""
    given = {
        "compare": options.compare is not None,
        "quick": options.quick,
        "workload": options.workload is not None,
    }
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise PipelineError(f"--{' and --'.join(chosen)} do not go together: give one of them")
    mode = chosen[0] if chosen else "sweep"
    axes = (
        *("backends", "block_sizes", "queue_depths", "access", "destinations", "cache", "io"),
        "batch",
    )
    effort = ("size", "seconds", "repeats", "budget", "verify")
    accelerators = ("accelerator", "num_accelerators", "to_gpu")
    idle = {
        "sweep": ("sample_bytes", *accelerators),
        "quick": (*axes, *effort, "html", *accelerators),
        "workload": (*axes[1:], "repeats", "verify", "html", "sample_bytes"),
        "compare": (*axes, *effort, "json", "html", "target", "sample_bytes", *accelerators),
    }[mode]
    for name in idle:
        if getattr(options, name) not in (None, False, []):
            shown = "a target" if name == "target" else f"--{name.replace('_', '-')}"
            raise PipelineError(f"{shown} has no effect on a {mode}: leave it out")
    return mode


def _fill_in(options: argparse.Namespace) -> None:
    """What was not given, once it is known what was."""
    defaults = {"size": 1 << 30, "seconds": 1.0, "repeats": 3, "budget": 120.0}
    for name, value in {**defaults, "accelerator": "h100"}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r}: give some of {', '.join(names)}")
        return text

    return parse


def _list_of(parse: Callable[[str], _Value]) -> Callable[[str], tuple[_Value, ...]]:
    def parse_all(text: str) -> tuple[_Value, ...]:
        try:
            values = tuple(parse(part.strip()) for part in text.split(",") if part.strip())
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
        if not values:
            raise argparse.ArgumentTypeError("give at least one")
        return tuple(dict.fromkeys(values))

    return parse_all

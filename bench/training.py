"""How much of a training's speed its input costs: real feeds against a batch that lies there.

`python -m iopipe.bench.training --images DIR --json FILE`.  One process, one network and one GPU
for all feeds, which come in turns (A B C, then C B A): what the machine does besides falls on all
of them.  Each runs on so many cores and no others, the training loop included.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import iopipe
from iopipe.bench.feeds import FEEDS, Job
from iopipe.bench.harness import residency, write_results
from iopipe.bench.loader import prepare
from iopipe.bench.networks import NETWORKS, Training
from iopipe.bench.windows import Length, Window, first_cores, on_cpus, run_window


@dataclass(slots=True)
class Contestant:
    """A feed, the cores it may use, and what is tried with it."""

    feed: str
    cores: int
    candidates: list[dict[str, Any]]
    """Settings; the fastest of them in a short training is taken."""
    settings: dict[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    """Why it does not take part any longer."""
    windows: list[Window] = field(default_factory=list)


def sweep(feed: str, cores: int, given: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of what is tried of each setting, by default what is known to matter."""
    defaults: dict[str, dict[str, Sequence[Any]]] = {
        "synthetic": {},
        # One core less than there are leaves the training loop its own.
        "iopipe": {"workers": sorted({max(1, cores - 1), cores})},
        "torch": {"workers": sorted({max(1, cores // 2), max(1, cores - 2), cores})},
        "dali": {"threads": [cores], "form": ["whole", "region"], "load": [0.65, 0.9]},
    }
    wanted = {**defaults[feed], **given}
    found: list[dict[str, Any]] = []
    for values in itertools.product(*wanted.values()):
        settings = dict(zip(wanted, values, strict=True))
        if settings.get("engine", "cpu") != "cpu":
            settings.pop("workers", None)  # engines have threads of their own
        if settings not in found:
            found.append(settings)
    return found


def compare(
    contestants: Sequence[Contestant],
    job: Job,
    training: Training,
    length: Length,
    *,
    num_rounds: int,
    on_window: Callable[[Contestant, Window], None],
) -> None:
    """Tune each, then train on all of them in turns; the windows are added to them.

    What happens once (compilation, cuDNN's choice of algorithms) is done before, since whoever
    fed it would have time to fill its queues.  One that fails is out, with its error; the
    others go on.
    """
    run_window(FEEDS["synthetic"], job, training, Length(warmup=length.warmup))
    for contestant in contestants:
        _tune(contestant, job, training, replace(length, seconds=length.seconds / 2))
    for number in range(num_rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            if contestant.error is not None:
                continue
            found = _run(contestant, contestant.settings, job, training, length)
            if isinstance(found, str):
                contestant.error = found
                continue
            contestant.windows.append(found)
            on_window(contestant, found)


def _tune(contestant: Contestant, job: Job, training: Training, length: Length) -> None:
    """With one candidate there is nothing to try."""
    contestant.settings = contestant.candidates[0]
    if len(contestant.candidates) == 1:
        return
    for settings in contestant.candidates:
        found = _run(contestant, settings, job, training, length)
        outcome = (
            {"error": found}
            if isinstance(found, str)
            else {"images_per_second": found.images_per_second}
        )
        contestant.tried.append({"settings": settings, **outcome})
        print(f"{contestant.feed:10} {contestant.tried[-1]}", flush=True)
    ran = [one for one in contestant.tried if "error" not in one]
    if not ran:
        contestant.error = contestant.tried[-1]["error"]
        return
    contestant.settings = max(ran, key=lambda one: one["images_per_second"])["settings"]


def _run(
    contestant: Contestant,
    settings: Mapping[str, Any],
    job: Job,
    training: Training,
    length: Length,
) -> Window | str:
    """What was measured, or what went wrong."""
    with on_cpus(first_cores(contestant.cores)):
        feed = FEEDS[contestant.feed]
        try:
            return run_window(feed, replace(job, settings=settings), training, length)
        except Exception as error:  # whatever a peer raises: it is shown, and in the results
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"


def rows(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """One a contestant; the overhead is that against the synthetic window of the same round."""
    synthetic = next((one for one in contestants if one.feed == "synthetic"), None)
    return [_row(one, synthetic) for one in contestants if one.windows or one.error]


def _row(contestant: Contestant, synthetic: Contestant | None) -> dict[str, Any]:
    runs = [window.numbers() for window in contestant.windows]
    row: dict[str, Any] = {
        "name": contestant.feed,
        "cores": contestant.cores,
        "settings": contestant.settings,
        "tried": contestant.tried,
    }
    if contestant.error is not None:
        row["error"] = contestant.error
    if not runs:
        return row
    row |= {name: spread([run[name] for run in runs]) for name in runs[0]}
    row["runs"] = runs
    if synthetic is not None and synthetic is not contestant:
        row["input_overhead"] = spread(overheads(contestant.windows, synthetic.windows))
    return row


def overheads(real: Sequence[Window], synthetic: Sequence[Window]) -> list[float]:
    """1 - real / synthetic, round by round, as far as both have come; 0.02: input costs 2 %."""
    pairs = zip(real, synthetic, strict=False)
    return [1 - one.images_per_second / other.images_per_second for one, other in pairs]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest; nothing of nothing."""
    if not values:
        return {}
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Prepare the files, compare, write after every window what is known; the rows.

    Exits with 1 where a contestant failed.
    """
    options = _options(arguments)
    contestants = _contestants(options)
    device = options.device if options.device == "cpu" else "cuda:0"
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        prepare(options.images, folder, num_samples=options.samples, num_shards=options.shards)
        cache = {"state": "warm: the files were just written", **residency(files_in(folder))}
        job = Job(dataset=folder, device=device, batch_size=options.batch, size=options.size)
        training = Training(options.model, device=device, compiled=options.compile)

        def save(contestant: Contestant, window: Window) -> None:
            _show(contestant, window)
            _write(options, cache, rows(contestants))

        compare(
            contestants,
            job,
            training,
            Length(seconds=options.seconds, warmup=options.warmup),
            num_rounds=options.rounds,
            on_window=save,
        )
    found = rows(contestants)
    _write(options, cache, found)
    for row in found:
        if "input_overhead" in row:
            print(f"{row['name']:10} input overhead {_percent(row['input_overhead'])}", flush=True)
    if any("error" in row for row in found):
        sys.exit(1)
    return found


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    available = len(os.sched_getaffinity(0))
    given = _given(options.sweep)
    found = []
    for feed in options.feeds.split(","):
        if feed not in FEEDS:
            raise iopipe.PipelineError(f"feed {feed!r} is unknown: give some of {list(FEEDS)}")
        cores = (options.torch_cores if feed == "torch" else options.cores) or available
        if cores > available:
            raise iopipe.PipelineError(f"{cores} cores were asked for, there are {available}")
        found.append(Contestant(feed, cores, sweep(feed, cores, given.get(feed, {}))))
    return found


def _given(texts: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """What FEED.NAME=VALUE,VALUE say, by feed and name."""
    found: dict[str, dict[str, list[Any]]] = {}
    for text in texts:
        left, equals, values = text.partition("=")
        feed, dot, name = left.partition(".")
        if not equals or not dot or feed not in FEEDS:
            raise iopipe.PipelineError(f"--sweep {text!r}: give FEED.NAME=VALUE,VALUE")
        found.setdefault(feed, {})[name] = [_value(value) for value in values.split(",")]
    return found


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _write(
    options: argparse.Namespace, cache: Mapping[str, Any], found: list[dict[str, Any]]
) -> None:
    compiled = " --compile" if options.compile else ""
    swept = "".join(f" --sweep {one}" for one in options.sweep)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.training --images DIR --model {options.model}{compiled} "
        f"--cores {options.cores} --feeds {options.feeds} --batch {options.batch} --seconds "
        f"{options.seconds:g} --rounds {options.rounds}{swept} --json FILE",
        cache=cache,
        rows=[{"model": options.model, "compiled": options.compile, **row} for row in found],
    )


def _show(contestant: Contestant, window: Window) -> None:
    print(
        f"{contestant.feed:10} {contestant.cores:3} cores {window.images_per_second:9,.1f} "
        f"images/s  starved {100 * window.starved_fraction:5.2f} %  "
        f"{window.cpu_seconds_per_1000:6.3f} CPU s/1000, the trainer's "
        f"{window.trainer_cpu_seconds_per_1000:.3f}  first {window.first_batch_seconds:5.2f} s",
        flush=True,
    )


def _percent(values: Mapping[str, float]) -> str:
    median, least, most = (100 * values[name] for name in ("median", "min", "max"))
    return f"{median:.2f} % ({least:.2f} to {most:.2f})"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", choices=NETWORKS, default="resnet50")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cores", type=int, default=4, help="of all feeds but torch; 0: all")
    parser.add_argument("--torch-cores", type=int, default=0, help="of torch's feed; 0: all")
    parser.add_argument("--feeds", default="synthetic,iopipe,torch,dali")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="FEED.NAME=VALUE,VALUE",
        help="what is tried of one setting, instead of the default; may be given several times",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a window")
    parser.add_argument("--warmup", type=int, default=12, help="steps before the clock starts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are written; a fast one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

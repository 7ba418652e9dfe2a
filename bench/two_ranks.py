"""Two GPUs of one host train together, fed by iopipe: speed, exactness, and who is to blame.

`python -m iopipe.bench.two_ranks --images DIR --json FILE`; with `--backend gloo --device cpu` it
runs anywhere, which proves the code and measures nothing.  Every part writes what it found as
soon as it knows; one that fails says so in its row, and the others go on.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import iopipe
from iopipe.bench.harness import residency, write_results
from iopipe.bench.launch import Ended, launch
from iopipe.bench.loader import prepare
from iopipe.bench.networks import NETWORKS
from iopipe.bench.rank_work import Orders
from iopipe.bench.training import files_in, spread

WORLD = 2
PARTS = ("speed", "straggler", "numa", "epoch", "killed")


class Results:
    """The rows so far, by part; written whenever one comes."""

    def __init__(self, options: argparse.Namespace, cache: Mapping[str, Any]) -> None:
        self._options = options
        self._cache = cache
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["part"]] = {**self.rows.get(row["part"], {}), **row}
        print(_words(row), flush=True)
        given = self._options
        write_results(
            given.json,
            command=f"python -m iopipe.bench.two_ranks --images DIR --backend {given.backend} "
            f"--model {given.model} --batch {given.batch} --workers {given.workers} --engine "
            f"{given.engine} --seconds "
            f"{given.seconds:g} --rounds {given.rounds} --json FILE",
            cache=self._cache,
            rows=list(self.rows.values()),
        )


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All parts; the rows.  Exits with 1 where a part failed."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        prepare(options.images, folder, num_samples=options.samples, num_shards=options.shards)
        cache = {"state": "warm: the files were just written", **residency(files_in(folder))}
        results = Results(options, cache)
        _do(options.parts.split(","), options, folder, results)
    rows = list(results.rows.values())
    if any("error" in row for row in rows):
        sys.exit(1)
    return rows


def _do(parts: Sequence[str], options: argparse.Namespace, folder: Path, results: Results) -> None:
    """What can be done by the same processes one after the other, then what needs its own."""
    apart: dict[str, Callable[[argparse.Namespace, Path, Results], None]] = {
        "epoch": _whole_epoch,
        "killed": _killed_and_resumed,
    }
    together = [part for part in parts if part not in apart]
    while together:
        together = _together(together, options, folder, results)
    for part in parts:
        if part in apart:
            try:
                apart[part](options, folder, results)
            except (RuntimeError, iopipe.IopipeError) as error:
                results.add({"part": part, "error": str(error)})


def _together(
    parts: Sequence[str], options: argparse.Namespace, folder: Path, results: Results
) -> list[str]:
    """Those that are left: where one failed, the ones behind it."""

    def add(row: dict[str, Any]) -> None:
        results.add({**row, **summed_up(row)})

    ended = _run(",".join(parts), WORLD, options, folder, on_row=add)
    for place, part in enumerate(parts):
        if "is_complete" not in results.rows.get(part, {}):
            results.add({"part": part, "error": f"exit codes {list(ended.codes)}: see above"})
            return list(parts[place + 1 :])
    return []


def _whole_epoch(options: argparse.Namespace, folder: Path, results: Results) -> None:
    own = folder / "epoch"
    own.mkdir()
    rows: list[dict[str, Any]] = []
    ended = _run("epoch", WORLD, options, folder, on_row=rows.append, own=own)
    _expect(ended, 0, 0)
    results.add({"part": "epoch", "steps": rows[0]["steps"], **audited(own / "ledgers")})


def _killed_and_resumed(options: argparse.Namespace, folder: Path, results: Results) -> None:
    """Two ranks, of which one is killed; one rank, which is interrupted; two, to the end."""
    own = folder / "killed"
    own.mkdir()
    rows: list[dict[str, Any]] = []
    run = partial(_run, "epoch", options=options, folder=folder, on_row=rows.append, own=own)
    starts = [run(WORLD, ended=WORLD - 1, ended_by=signal.SIGKILL)]
    _expect(starts[-1], WORLD - 1, -signal.SIGKILL)
    starts.append(run(1, ended=0, ended_by=signal.SIGINT))
    _expect(starts[-1], 0, -signal.SIGINT)
    starts.append(run(WORLD))
    _expect(starts[-1], 0, 0)
    row = {"part": "killed", "starts": [asdict(one) for one in starts]}
    results.add({**row, "last_steps": rows[0]["steps"], **audited(own / "ledgers")})


def _expect(ended: Ended, rank: int, code: int) -> None:
    if ended.codes[rank] != code:
        raise RuntimeError(
            f"rank {rank} of {len(ended.codes)} ended with {ended.codes[rank]}, not with {code}: "
            "see above"
        )


def _run(
    parts: str,
    world: int,
    options: argparse.Namespace,
    folder: Path,
    *,
    on_row: Callable[[dict[str, Any]], None],
    own: Path | None = None,
    **more: Any,
) -> Ended:
    meeting = Path(tempfile.mkdtemp(dir=folder)) / "meeting"
    ranks = [
        Orders(
            part=parts,
            rank=rank,
            world=world,
            places=WORLD,
            backend=options.backend,
            meeting=str(meeting),
            dataset=str(folder),
            model=options.model,
            batch_size=options.batch,
            size=options.size,
            settings={"workers": options.workers, "engine": options.engine},
            seconds=options.seconds,
            rounds=options.rounds,
            warmup=options.warmup,
            delay=options.delay,
            folder=str(own or folder),
            **more,
        )
        for rank in range(world)
    ]
    return launch(ranks, on_row=on_row)


# ---- what it adds up to ----------------------------------------------------------------


def audited(ledgers: Path) -> dict[str, Any]:
    """What an audit says of all ledgers in a folder, and what the command exits with."""
    report = iopipe.audit_ledgers([ledgers])
    command = (sys.executable, "-m", "iopipe.cli", "audit", str(ledgers))
    code = subprocess.run(command, capture_output=True).returncode
    return {
        "audit_is_exact": report.is_exact,
        "audit_exit_code": code,
        "num_ledgers": report.num_ledgers,
        "num_undone": report.num_undone,
        "delivered": [epoch.num_delivered for epoch in report.epochs],
        "missing": sum(len(epoch.missing) for epoch in report.epochs),
        "double": sum(len(epoch.double) for epoch in report.epochs),
        "problems": list(report.problems),
    }


def summed_up(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a part that the bars are about."""
    if "runs" not in row or row["part"] == "numa":
        return {}
    return (_speed if row["part"] == "speed" else _straggler)(row["runs"])


def _speed(runs: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, Any]:
    """Rates of all ranks of a window together; ratios within a round, as far as they go."""
    rates = {
        name: [sum(w["images_per_second"] for w in ranks if w) for ranks in windows]
        for name, windows in runs.items()
    }

    def ratio(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(rates[above], rates[below], strict=False)]

    return {
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "scaling": spread(ratio("2 iopipe", "1 iopipe")),
        "scaling_synthetic": spread(ratio("2 synthetic", "1 synthetic")),
        "input_overhead_of_one": spread([1 - r for r in ratio("1 iopipe", "1 synthetic")]),
        "input_overhead_of_two": spread([1 - r for r in ratio("2 iopipe", "2 synthetic")]),
        "starved_fractions": [
            [window["starved_fraction"] for window in ranks if window] for ranks in runs["2 iopipe"]
        ],
    }


def _straggler(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    before, late, after = runs
    injected = sum(late["injected_seconds"])
    return {
        "injected_seconds": injected,
        "charged_seconds": late["charged_seconds"],
        "charged_without": [before["charged_seconds"], after["charged_seconds"]],
        "relative_error": abs(late["charged_seconds"][1] - injected) / injected,
        "lost_seconds": late["seconds"] - (before["seconds"] + after["seconds"]) / 2,
        "share_seen_by_rank_0": late["stall_seconds"][0] / injected,
        "said": late["said"],
    }


def _words(row: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in row.items() if name not in ("runs", "places", "part")}
    return f"{row['part']}: " + ", ".join(f"{name} {value}" for name, value in shown.items())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--backend", choices=("nccl", "gloo"), default="nccl", help="gloo: on CPUs")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--model", choices=NETWORKS, default="resnet50")
    parser.add_argument("--batch", type=int, default=256, help="of each rank")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=12, help="of each rank")
    parser.add_argument("--engine", default="cpu", help="what decodes; only 'cpu' has workers")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=12, help="steps before the clock starts")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds, of rank 1's loader")
    parser.add_argument("--folder", type=Path, help="where the files are written; a fast one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""How fast loose JPEGs become tar shards, against webdataset and tar, in turns on one
machine; and what planning a very large job takes.

`python -m iopipe.bench.jobs --images DIR --json FILE`, from a checkout (the peers' scripts do
not ship), with webdataset and tar installed.  Shards go where temporary files go.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iopipe.bench.harness import Contestant, Runs, interleave, residency, write_results
from iopipe.bench.photographs import jpegs_in

_SCRIPT = Path(__file__).resolve().parent / "peers" / "write_shards.py"
_WAYS = ("iopipe", "tar", "webdataset")
_BARS = {"tar": 1.0, "webdataset": 1.5}


def write_loose(images: Path, folder: Path, *, num_files: int) -> list[Path]:
    """The JPEGs of `images`, repeated in shuffled order, as files of one folder."""
    files = jpegs_in(images)
    order = [files[number % len(files)] for number in range(num_files)]
    random.Random(0).shuffle(order)
    folder.mkdir(parents=True)
    written = [folder / f"{number:06d}.jpg" for number in range(num_files)]
    for path, content in zip(written, order, strict=True):
        path.write_bytes(content.read_bytes())
    os.sync()
    return written


def contestants(folder: Path, *, num_workers: int, shard_samples: int) -> list[Contestant]:
    """Each writes the files of `folder/loose` as shards, and removes them again."""
    rest = ("--workers", str(num_workers), "--samples", str(shard_samples))
    places = (str(folder / "loose"), str(folder / "out"))
    return [Contestant(way, (sys.executable, str(_SCRIPT), way, *places, *rest)) for way in _WAYS]


def ratios(results: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """How many times as fast as each of the others iopipe is: the median of the rounds, since
    the runs of one round met the machine in one state.  Without the imports, and whole
    commands."""
    rows: list[dict[str, Any]] = []
    for peer, least in _BARS.items():
        pairs = list(zip(results[peer].rows, results["iopipe"].rows, strict=True))
        row: dict[str, Any] = {"name": f"iopipe against {peer}", "bar": least}
        for clock in ("seconds", "command_seconds"):
            rounds = [theirs[clock] / ours[clock] for theirs, ours in pairs]
            row[f"ratio_of_{clock}"] = {
                "median": statistics.median(rounds),
                "min": min(rounds),
                "max": max(rounds),
            }
        rows.append(row)
    return rows


def main() -> None:
    """Write the files, run everything in turns, write the results."""
    options = _options()
    planning = Contestant("planning", (sys.executable, "-m", "iopipe.bench.planning"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_loose(options.images, folder / "loose", num_files=options.files)
        before = residency(written)
        writers = contestants(
            folder, num_workers=options.workers, shard_samples=options.shard_samples
        )
        results = interleave([*writers, planning], num_rounds=options.rounds, on_run=_show)
        after = residency(written)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.jobs --images DIR --files {options.files} --workers "
        f"{options.workers} --shard-samples {options.shard_samples} --rounds {options.rounds} "
        "--json FILE",
        cache={"state": "warm", "before": before, "after": after},
        rows=[
            {"name": name, "num_rounds": options.rounds, **runs.summary(), "runs": runs.rows}
            for name, runs in results.items()
        ]
        + ratios(results),
    )
    for row in ratios(results):
        print(
            f"{row['name']:26} {row['ratio_of_seconds']['median']:.2f}, whole commands "
            f"{row['ratio_of_command_seconds']['median']:.2f}; the bar is {row['bar']}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2, help="processes of iopipe")
    parser.add_argument("--shard-samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def _show(name: str, row: Mapping[str, float]) -> None:
    print(
        f"{name:12} {row['seconds']:7.2f} s  {row['peak_pss_bytes'] / 1e6:6.0f} MB  foreign "
        f"{row['foreign_cores']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

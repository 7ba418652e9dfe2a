"""The drop-in against torch's DataLoader, same dataset and workers, in one run.

`python -m iopipe.bench.dataloader --images DIR --json FILE`: each run is a process of its own,
the two loaders take turns.  The consumer reads a byte of every page of every tensor, as a copy to
a device would.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

import iopipe
from iopipe.bench.harness import Contestant, Runs, interleave, write_results
from iopipe.bench.photographs import jpegs_in

_WORKERS = 2
_SIDE = 224
BARS = {"large": 1.0, "many": 1.3, "decode": 1.2, "decode whole": 1.2, "first": 1.0}


class Large(Dataset[Any]):
    """Images that are in memory already: all work is collation and transport."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.image = torch.randint(0, 255, (3, 224, 224), dtype=torch.uint8)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Any:
        return self.image, index


class Many(Dataset[Any]):
    """120 features of 8 numbers a sample, as tables have them."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.features = {f"f{number:03d}": torch.rand(8) for number in range(120)}

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Any:
        return self.features


class Photographs(Dataset[Any]):
    """JPEGs in memory, decoded without the interpreter lock: those of the commonest size whole,
    or all that are large enough, cut to one size."""

    def __init__(self, folder: Path, num_samples: int, *, whole: bool) -> None:
        import simplejpeg

        files = [path.read_bytes() for path in jpegs_in(folder)]
        sizes = [simplejpeg.decode_jpeg_header(data)[:2] for data in files]
        commonest = Counter(sizes).most_common(1)[0][0]
        self.files = [
            data
            for data, size in zip(files, sizes, strict=True)
            if (size == commonest if whole else min(size) >= _SIDE)
        ]
        self.num_samples = num_samples
        self.whole = whole

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Any:
        import simplejpeg

        pixels = simplejpeg.decode_jpeg(self.files[index % len(self.files)])
        whole = torch.from_numpy(pixels)
        return whole if self.whole else whole[:_SIDE, :_SIDE].contiguous()


def run(case: str, loader: str, options: argparse.Namespace) -> dict[str, float]:
    """One epoch: seconds to the first batch and to the last one, from `iter` on."""
    dataset, batch_size = _case(case, options)
    kinds: dict[str, Callable[..., Any]] = {
        "torch": torch.utils.data.DataLoader,
        "iopipe": iopipe.DataLoader,
        "iopipe, threads": lambda *a, **b: iopipe.DataLoader(*a, worker_mode="thread", **b),
    }
    made = kinds[loader](dataset, batch_size=batch_size, num_workers=_WORKERS)
    start = time.perf_counter()
    first = 0.0
    num_bytes = 0
    for batch in made:
        first = first or time.perf_counter() - start
        num_bytes += _touched(batch)
    return {
        "seconds": time.perf_counter() - start,
        "first_batch_seconds": first,
        "bytes": num_bytes,
    }


def _case(case: str, options: argparse.Namespace) -> tuple[Dataset[Any], int]:
    if case == "large":
        return Large(64 * 120), 64
    if case == "many":
        return Many(32 * 150), 32
    return Photographs(options.images, 32 * 40, whole=case == "decode whole"), 32


def _touched(batch: Any) -> int:
    tensors = batch.values() if isinstance(batch, dict) else [batch]
    tensors = [one for one in tensors for one in (one if isinstance(one, list | tuple) else [one])]
    for tensor in tensors:
        int(tensor.view(-1).view(torch.uint8)[::4096].sum())
    return sum(tensor.nbytes for tensor in tensors)


CASES = {
    "large": ("torch", "iopipe"),
    "many": ("torch", "iopipe"),
    "decode": ("torch", "iopipe", "iopipe, threads"),
    "decode whole": ("torch", "iopipe", "iopipe, threads"),
}


def main() -> None:
    options = _options()
    if options.loader:
        print(json.dumps(run(options.case, options.loader, options)))
        return
    rows: list[dict[str, Any]] = []
    for case, loaders in CASES.items():
        command = (sys.executable, "-m", "iopipe.bench.dataloader", "--case", case)
        rest = ("--images", str(options.images))
        results = interleave(
            [Contestant(name, (*command, "--loader", name, *rest)) for name in loaders],
            num_rounds=options.rounds,
            on_run=_show,
        )
        rows += [
            {"case": case, "name": name, **runs.summary(), "runs": runs.rows}
            for name, runs in results.items()
        ]
        rows += _ratios(case, results)
    for row in rows:
        if "ratio" in row:
            print(f"{row['name']:40} {row['ratio']['median']:.2f}, bar {row['bar']}")
    write_results(
        options.json,
        command=f"python -m iopipe.bench.dataloader --images DIR --rounds {options.rounds} "
        "--json FILE",
        cache={"state": "in memory"},
        rows=rows,
    )


def _ratios(case: str, results: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """How many times faster than torch's, round by round."""
    ours = "iopipe, threads" if case.startswith("decode") else "iopipe"
    pairs = list(zip(results["torch"].rows, results[ours].rows, strict=True))
    found = [_ratio(f"{case}: {ours} against torch", "seconds", pairs, BARS[case])]
    if not case.startswith("decode"):
        name = f"{case}: first batch, {ours} against torch"
        found.append(_ratio(name, "first_batch_seconds", pairs, BARS["first"]))
    return found


def _ratio(
    name: str,
    field: str,
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    bar: float,
) -> dict[str, Any]:
    rounds = [torch_row[field] / our_row[field] for torch_row, our_row in pairs]
    spread = {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds)}
    return {"name": name, "ratio": spread, "bar": bar}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of JPEGs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", choices=tuple(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--loader", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.loader and None in (options.images, options.json):
        parser.error("--images DIR and --json FILE are needed")
    return options


def _show(name: str, row: Mapping[str, float]) -> None:
    print(
        f"{name:16} {row['seconds']:6.3f} s, first {row['first_batch_seconds']:.3f} s, foreign "
        f"{row['foreign_cores']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

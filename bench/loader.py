"""How fast batches of images come, against other loaders, in turns on one machine.

`python -m iopipe.bench.loader --images DIR --json FILE`, from a checkout (the peers' scripts
do not ship), with opencv-python-headless and webdataset installed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import iopipe
from iopipe.bench.harness import Contestant, interleave, residency, write_results

_PEERS = Path(__file__).resolve().parent / "peers"
_CONTESTANTS = {
    "iopipe exact": ("iopipe_webdataset.py", "--fidelity", "exact"),
    "iopipe scaled": ("iopipe_webdataset.py", "--fidelity", "scaled"),
    "torch DataLoader, loose files": ("torch_loose.py",),
    "torch DataLoader, webdataset": ("torch_webdataset.py",),
}


def prepare(images: Path, folder: Path, *, num_samples: int, num_shards: int) -> list[Path]:
    """The JPEGs of `images`, repeated in shuffled order, as shards and as loose files; all
    files that were written."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise iopipe.NotFoundError(2, "no .jpg or .jpeg files in this folder", str(images))
    order = [files[number % len(files)] for number in range(num_samples)]
    random.Random(0).shuffle(order)
    (folder / "loose").mkdir()
    with iopipe.DatasetWriter(
        folder / "shards", max_samples=-(-num_samples // num_shards)
    ) as writer:
        for number, path in enumerate(order):
            content = path.read_bytes()
            writer.write({"__key__": f"{number:06d}", "jpg": content, "cls": files.index(path)})
            (folder / "loose" / f"{number:06d}.jpg").write_bytes(content)
    return sorted([*(folder / "shards").glob("*.tar"), *(folder / "loose").iterdir()])


def main() -> None:
    """Prepare, run everything in turns, write the results."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = prepare(
            options.images, folder, num_samples=options.samples, num_shards=options.shards
        )
        before = residency(written)
        results = interleave(
            [
                Contestant(
                    name,
                    (sys.executable, str(_PEERS / script), str(folder), *rest,
                     "--workers", str(options.workers), "--seconds", str(options.seconds)),
                )
                for name, (script, *rest) in _CONTESTANTS.items()
            ],
            num_rounds=options.rounds,
            on_run=_show,
        )  # fmt: skip
        after = residency(written)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.loader --images DIR --workers {options.workers} "
        f"--rounds {options.rounds} --seconds {options.seconds:g} --json FILE",
        cache={"state": "warm", "before": before, "after": after},
        rows=[
            {"name": name, "num_rounds": options.rounds, **runs.summary(), "runs": runs.rows}
            for name, runs in results.items()
        ],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes, or decode threads")
    parser.add_argument("--seconds", type=float, default=8.0)
    return parser.parse_args()


def _show(name: str, row: Mapping[str, float]) -> None:
    print(
        f"{name:32} {row['samples_per_second']:8.0f}/s "
        f"{row['cpu_seconds_per_1000']:6.3f} CPU s/1000  first "
        f"{row['first_batch_seconds']:5.2f} s  {row['peak_pss_bytes'] / 1e6:6.0f} MB  "
        f"foreign {row['foreign_cores']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

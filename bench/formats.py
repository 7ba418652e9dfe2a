"""How fast samples of shards are reached, and tar archives indexed, against the formats' own
libraries, in turns on one machine.

`python -m iopipe.bench.formats --images DIR --json FILE`, from a checkout (the peers' scripts
do not ship), with webdataset installed; `--wds2idx COMMAND` adds DALI's indexer.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import iopipe
from iopipe.bench.harness import Contestant, Runs, interleave, residency, write_results
from iopipe.bench.photographs import jpegs_in

_SCRIPT = Path(__file__).resolve().parent / "peers" / "read_shards.py"
_READS = (
    ("webdataset", "iopipe", "mapped"),
    ("webdataset", "iopipe", "shuffled"),
    ("webdataset", "iopipe", "read"),
    ("webdataset", "webdataset", "stream"),
    ("arrow", "iopipe", "mapped"),
    ("arrow", "pyarrow-ipc", "mapped"),
    ("parquet", "iopipe", "mapped"),
    ("parquet", "pyarrow-dataset", "mapped"),
)
_BARS = (
    ("webdataset views", "read webdataset iopipe mapped", "read webdataset webdataset stream", 5),
    ("webdataset touched", "read webdataset iopipe mapped touched",
     "read webdataset webdataset stream touched", 5),
    ("arrow views", "read arrow iopipe mapped", "read arrow pyarrow-ipc mapped", 0.9),
    ("parquet views", "read parquet iopipe mapped", "read parquet pyarrow-dataset mapped", 0.95),
    ("tar index", "index iopipe", "index tarfile", 10),
    ("tar index, wds2idx", "index iopipe", "index wds2idx", 3),
)  # fmt: skip


def prepare(images: Path, folder: Path, *, num_samples: int) -> dict[str, list[Path]]:
    """The JPEGs of `images`, repeated, as shards of each format."""
    contents = [path.read_bytes() for path in jpegs_in(images)]
    shards = {}
    for name in ("webdataset", "arrow", "parquet"):
        options = iopipe.WriteOptions(rows_per_group=128) if name != "webdataset" else None
        with iopipe.DatasetWriter(
            folder / name, format=name, max_samples=500, options=options
        ) as writer:
            for number in range(num_samples):
                content = contents[number % len(contents)]
                writer.write({"__key__": f"{number:06d}", "jpg": content})
        shards[name] = sorted((folder / name).glob("shard-??????.*[rwt]"))
    return shards


def write_members(path: Path, *, count: int, size: int) -> None:
    """A tar archive of members of `size` bytes, by tarfile."""
    content = bytes(range(256)) * (size // 256 + 1)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            info = tarfile.TarInfo(f"{number:08d}.jpg")
            info.size = size
            archive.addfile(info, io.BytesIO(content))


def contestants(
    shards: Mapping[str, list[Path]], archive: Path, wds2idx: str | None
) -> list[Contestant]:
    made = []
    for name, way, mode in _READS:
        command = (sys.executable, str(_SCRIPT), "read", way, mode, *map(str, shards[name]))
        made.append(Contestant(f"read {name} {way} {mode}", command))
        made.append(Contestant(f"read {name} {way} {mode} touched", (*command, "--touch")))
    ways = {"iopipe": "iopipe", "tarfile": "tarfile"} | ({"wds2idx": wds2idx} if wds2idx else {})
    for name, way in ways.items():
        command = (sys.executable, str(_SCRIPT), "index", way, "-", str(archive))
        made.append(Contestant(f"index {name}", command))
    return made


def main() -> None:
    """Prepare, run everything in turns, write the results."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = prepare(options.images, folder, num_samples=options.samples)
        archive = folder / "members.tar"
        write_members(archive, count=options.members, size=10_000)
        written = [archive, *(path for paths in shards.values() for path in paths)]
        before = residency(written)
        results = interleave(
            contestants(shards, archive, options.wds2idx), num_rounds=options.rounds, on_run=_show
        )
        after = residency(written)
    rows = [
        {"name": name, "num_rounds": options.rounds, **runs.summary(), "runs": runs.rows}
        for name, runs in results.items()
    ]
    write_results(
        options.json,
        command=f"python -m iopipe.bench.formats --images DIR --samples {options.samples} "
        f"--members {options.members} --rounds {options.rounds} --json FILE",
        cache={"state": "warm", "before": before, "after": after},
        rows=[*rows, *ratios(results)],
    )
    for row in ratios(results):
        print(f"{row['name']:24} {row['ratio']:.2f}, the bar is {row['bar']}")


def ratios(results: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """Median against median, for each bar whose contestants ran."""
    rows = []
    for name, ours, theirs, bar in _BARS:
        if ours in results and theirs in results:
            rate = "members_per_second" if ours.startswith("index") else "samples_per_second"
            medians = [results[which].summary()[rate]["median"] for which in (ours, theirs)]
            rows.append({"name": name, "ratio": medians[0] / medians[1], "bar": bar})
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wds2idx", metavar="COMMAND")
    return parser.parse_args()


def _show(name: str, row: Mapping[str, float]) -> None:
    rate = row.get("samples_per_second") or row.get("members_per_second") or 0.0
    print(f"{name:48} {rate:10,.0f}/s  foreign {row['foreign_cores']:.2f}", flush=True)


if __name__ == "__main__":
    main()

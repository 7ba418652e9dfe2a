"""How fast batches of images come, against other loaders, in turns on one machine.

`python -m iopipe.bench.loader --images DIR --peer-python NAME=PATH ... --json FILE`, from a
checkout: the peers' scripts (bench/peers) do not ship.  Each peer runs by a Python of its own,
made from bench/peers/requirements/NAME.txt.  Invariant: the same photographs, the same clock
and the same work for all: random-resized-crop, mirror, a batch of uint8.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import iopipe
from iopipe.bench.harness import Contestant, interleave, residency, write_results
from iopipe.bench.photographs import jpegs_in

_PEERS = Path(__file__).resolve().parent / "peers"


@dataclass(frozen=True, slots=True)
class Peer:
    """A loader in the best form known: see bench/peers/README.md."""

    title: str
    by: Literal["threads", "workers"]


PEERS = {
    "torch": Peer("torch DataLoader, loose files", "workers"),
    "webdataset": Peer("webdataset", "workers"),
    "litdata": Peer("LitData", "workers"),
    "streaming": Peer("MosaicML Streaming", "workers"),
    "grain": Peer("Grain", "threads"),
    "spdl": Peer("SPDL", "threads"),
    "dali": Peer("DALI on the CPU", "threads"),
    "datasets": Peer("Hugging Face datasets", "workers"),
}


def prepare(images: Path, folder: Path, *, num_samples: int, num_shards: int) -> None:
    """The JPEGs of `images`, repeated in shuffled order, as shards and as loose files."""
    files = jpegs_in(images)
    order = [files[number % len(files)] for number in range(num_samples)]
    random.Random(0).shuffle(order)
    (folder / "loose").mkdir(parents=True)
    with iopipe.DatasetWriter(
        folder / "shards", max_samples=-(-num_samples // num_shards)
    ) as writer:
        for number, path in enumerate(order):
            content = path.read_bytes()
            writer.write({"__key__": f"{number:06d}", "jpg": content, "cls": files.index(path)})
            (folder / "loose" / f"{number:06d}.jpg").write_bytes(content)


def contestants(folder: Path, options: argparse.Namespace) -> list[Contestant]:
    """Ours in both fidelities, then the peers, each with its data beside the shards."""
    common: list[str] = []
    for option in ("seconds", "warmup", "batch"):
        common += [f"--{option}", str(getattr(options, option))]
    ours = (sys.executable, "-m", "iopipe.bench.loader_run", str(folder / "shards"))
    found = [
        Contestant(
            f"iopipe {fidelity}",
            (*ours, "--fidelity", fidelity, "--threads", str(options.threads), *common),
        )
        for fidelity in ("exact", "scaled")
    ]
    for name, python in options.peer_python:
        script = (python, str(_PEERS / f"peer_{name}.py"), str(folder))
        _once(folder, name, partial(_prepared_by, script))
        peer = PEERS[name]
        how = (f"--{peer.by}", str(options.threads), "--fidelity", "scaled")
        found.append(Contestant(peer.title, (*script, *how, *common)))
    return found


def _prepared_by(script: tuple[str, ...]) -> None:
    subprocess.run((*script, "--prepare"), check=True, stdout=subprocess.DEVNULL)


def _once(folder: Path, name: str, write: Callable[[], object], *, what: str = "") -> None:
    """Write a dataset where no earlier run with this folder has done so; PipelineError where one
    has written another than `what` says."""
    marker = folder / f"{name}.done"
    if marker.exists():
        if (found := marker.read_text()) != what:
            found = found or "a dataset of unknown size"
            raise iopipe.PipelineError(f"{folder} holds {found}, not {what}: give another --folder")
        return
    print(f"preparing {name}", flush=True)
    write()
    marker.write_text(what)


def main() -> None:
    """Prepare, run everything in turns, write the results."""
    options = _options()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sizes = {"num_samples": options.samples, "num_shards": options.shards}
        _once(
            folder,
            "shards",
            lambda: prepare(options.images, folder, **sizes),
            what=f"{options.samples} samples in {options.shards} shards",
        )
        found = contestants(folder, options)
        written = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
        before = residency(written)
        results = interleave(
            found, num_rounds=options.rounds, on_run=_show, max_tries=options.tries
        )
        after = residency(written)
    rows = [
        {"name": name, "num_rounds": options.rounds, **runs.summary(), "runs": runs.rows}
        for name, runs in results.items()
    ]
    write_results(
        options.json,
        command=f"python -m iopipe.bench.loader --images DIR --peer-python NAME=PATH ... "
        f"--samples {options.samples} --threads {options.threads} --rounds {options.rounds} "
        f"--tries {options.tries} --seconds {options.seconds:g} --json FILE",
        cache={"state": "warm", "before": before, "after": after},
        rows=rows,
        **sizes,
        peers={name: requirements(name) for name, _ in options.peer_python},
    )


def requirements(name: str) -> list[str]:
    """The pinned packages of a peer."""
    lines = (_PEERS / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--peer-python", type=_peer, action="append", default=[], metavar="NAME=PATH",
        help=f"the Python of a peer ({', '.join(PEERS)}), once for each",
    )  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, help="where the datasets are written, and found by the next run"
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tries", type=int, default=3, help="of a run that others disturb (3)")
    parser.add_argument("--threads", type=int, default=2, help="or processes, of each loader (2)")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    missing = PEERS.keys() - {name for name, _ in options.peer_python}
    if missing:
        print(f"not measured, for want of --peer-python: {', '.join(sorted(missing))}")
    return options


def _peer(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in PEERS or not os.access(python, os.X_OK):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write NAME=PATH, a name of {', '.join(PEERS)} and a Python"
        )
    return name, os.path.abspath(python)


def _show(name: str, row: Mapping[str, Any]) -> None:
    print(
        f"{name:32} {row['samples_per_second']:8.0f}/s "
        f"{row['cpu_seconds_per_1000']:6.3f} CPU s/1000  first "
        f"{row['first_batch_seconds']:5.2f} s  {row['peak_pss_bytes'] / 1e6:6.0f} MB  "
        f"foreign {row['foreign_cores']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

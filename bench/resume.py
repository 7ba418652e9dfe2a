"""How long it takes to go on in the middle of an epoch, against other loaders that can.

`python -m iopipe.bench.resume --json FILE`: a dataset without storage, shuffled, so that what is
timed is finding the place: from `load_state_dict` to the first batch.  torchdata's loader draws a
whole permutation and goes through it, and MosaicML's has shards on disk and lays out the whole
epoch, so they are asked for places that they reach.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import iopipe
from iopipe.bench.harness import Contestant, interleave, write_results
from iopipe.protocols import ByteRange, Int64Array, Location, Samples, Store

_BAR_SECONDS = 0.05
_BATCH = 100


class Numbers:
    """A Source without storage, and a dataset as torch has them: sample i is i."""

    shards = ("memory://numbers",)
    columns = ("x",)
    schema = pa.schema({"x": pa.int64()})
    digest = "numbers"
    faults = ()

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> int:
        return index

    def locate(self, sample_id: int) -> Location:
        return Location(self.shards[0], sample_id, str(sample_id))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        return [ByteRange(self.shards[0], int(sample) * 1000, 1000) for sample in ids]

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        found = np.asarray(ids, np.int64)
        return Samples(ids=found, keys=[""] * len(found), columns={"x": found})


def run(name: str, num_samples: int, position: int) -> dict[str, float]:
    """Seconds from the state to the first batch, in a process that is warm otherwise."""
    ways = {
        "pipeline": _pipeline,
        "DataLoader": _loader,
        "torchdata": _torchdata,
        "mosaicml": _mosaicml,
    }
    ways[name](1000, 500)
    return {"seconds": ways[name](num_samples, position)}


def _pipeline(num_samples: int, position: int) -> float:
    pipeline = iopipe.read(Numbers(num_samples)).shuffle(1).batch(_BATCH)
    state = {**pipeline.run().state_dict(), "position": position}
    start = time.perf_counter()
    with pipeline.run() as run:
        run.load_state_dict(state)
        next(run)
        return time.perf_counter() - start


def _loader(num_samples: int, position: int) -> float:
    loader = iopipe.DataLoader(Numbers(num_samples), batch_size=_BATCH, shuffle=True, seed=1)  # type: ignore[arg-type, var-annotated]
    state = {**loader.state_dict(), "num_yielded": position // _BATCH, "finished": False}
    start = time.perf_counter()
    loader.load_state_dict(state)
    next(iter(loader))
    return time.perf_counter() - start


def _torchdata(num_samples: int, position: int) -> float:
    from torchdata import stateful_dataloader as peer  # type: ignore[import-untyped]

    def made() -> Any:
        return peer.StatefulDataLoader(Numbers(num_samples), batch_size=_BATCH, shuffle=True)

    loader = made()
    iterator = iter(loader)
    for _ in range(position // _BATCH):
        next(iterator)
    state = loader.state_dict()
    start = time.perf_counter()
    again = made()
    again.load_state_dict(state)
    next(iter(again))
    return time.perf_counter() - start


def _mosaicml(num_samples: int, position: int) -> float:
    _stand_in_for_torchvision()
    import streaming
    from streaming.base.util import clean_stale_shared_memory

    with tempfile.TemporaryDirectory() as folder:
        with streaming.MDSWriter(out=f"{folder}/set", columns={"x": "int"}) as writer:
            for number in range(num_samples):
                writer.write({"x": number})
        clean_stale_shared_memory()
        start = time.perf_counter()
        data = streaming.StreamingDataset(
            local=f"{folder}/set", shuffle=True, shuffle_seed=1, batch_size=_BATCH
        )
        loader = streaming.StreamingDataLoader(data, batch_size=_BATCH)
        loader.load_state_dict(
            {
                "epoch": 0,
                "sample_in_epoch": position,
                "num_canonical_nodes": 1,
                "shuffle_seed": 1,
                "initial_physical_nodes": 1,
            }
        )
        next(iter(loader))
        return time.perf_counter() - start


def _stand_in_for_torchvision() -> None:
    """streaming imports classes of its image datasets, none of which is used here."""
    for name in ("", ".datasets", ".datasets.folder", ".transforms", ".transforms.functional"):
        module = types.ModuleType(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=True)
        module.__path__ = []
        vars(module).update(VisionDataset=object, CIFAR10=object, to_tensor=None)
        sys.modules[module.__name__] = module


PLACES = {
    "pipeline": [(10**6, 10**5), (2 * 10**9, 10**9), (10**12, 10**11)],
    "DataLoader": [(10**6, 10**5), (2 * 10**9, 10**9), (10**12, 10**11)],
    "torchdata": [(10**6, 10**5), (10**7, 10**6)],
    "mosaicml": [(10**6, 10**5)],
}


def main() -> None:
    options = _options()
    if options.way:
        print(json.dumps(run(options.way, options.samples, options.position)))
        return
    command = (sys.executable, "-m", "iopipe.bench.resume")
    contestants = [
        Contestant(
            f"{way} at {position:.0e} of {num_samples:.0e}",
            (*command, "--way", way, "--samples", str(num_samples), "--position", str(position)),
        )
        for way, places in PLACES.items()
        for num_samples, position in places
    ]
    results = interleave(contestants, num_rounds=options.rounds, on_run=_show)
    rows: list[dict[str, Any]] = [
        {"name": name, **runs.summary(), "runs": runs.rows} for name, runs in results.items()
    ]
    for row in rows:
        if " at 1e+09" in row["name"]:
            row["bar_seconds"] = _BAR_SECONDS
    write_results(
        options.json,
        command=f"python -m iopipe.bench.resume --rounds {options.rounds} --json FILE",
        cache={"state": "no storage"},
        rows=rows,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=tuple(PLACES), help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--position", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.way and options.json is None:
        parser.error("--json FILE is needed")
    return options


def _show(name: str, row: Mapping[str, float]) -> None:
    print(f"{name:32} {1000 * row['seconds']:9.2f} ms", flush=True)


if __name__ == "__main__":
    main()

"""One way of reading or indexing shards: a run of `iopipe.bench.formats`.

Invariant: every way goes over all samples, takes each image's bytes as its library hands them
out, and counts them; the clock covers opening and reading.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset

import iopipe

_CHUNK = 64


def _iopipe(shards: list[Path], mode: str) -> Iterator[Any]:
    """Sequential chunks, as an unshuffled run asks for them; 'shuffled': random ones."""
    store = iopipe.PosixStore() if mode == "read" else iopipe.MappedStore()
    source = iopipe.open_source(shards, columns=["jpg"], store=store)
    ids = np.arange(len(source))
    if mode == "shuffled":
        ids = np.random.default_rng(0).permutation(ids)
    for first in range(0, len(ids), _CHUNK):
        yield from source.samples(ids[first : first + _CHUNK], store).columns["jpg"]
    store.close()


def _webdataset(shards: list[Path], mode: str) -> Iterator[Any]:
    import webdataset

    warnings.simplefilter("ignore")
    dataset = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False)
    return (sample["jpg"] for sample in dataset)


def _pyarrow_ipc(shards: list[Path], mode: str) -> Iterator[Any]:
    """The loop that copies nothing: a buffer for each row."""
    for shard in shards:
        with pa.memory_map(str(shard)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                column = reader.get_batch(number).column("jpg")
                for row in range(len(column)):
                    yield column[row].as_buffer()


def _pyarrow_dataset(shards: list[Path], mode: str) -> Iterator[Any]:
    dataset = pyarrow.dataset.dataset([str(shard) for shard in shards], format="parquet")
    for batch in dataset.to_batches(columns=["jpg"]):
        column = batch.column("jpg")
        for row in range(len(column)):
            yield column[row].as_buffer()


READERS: dict[str, Callable[[list[Path], str], Iterator[Any]]] = {
    "iopipe": _iopipe,
    "webdataset": _webdataset,
    "pyarrow-ipc": _pyarrow_ipc,
    "pyarrow-dataset": _pyarrow_dataset,
}


def read(way: str, shards: list[Path], mode: str, touch: bool) -> dict[str, float]:
    """Samples a second; with `touch` one byte of every page is read, too."""
    start = time.perf_counter()
    count = total = 0
    for value in READERS[way](shards, mode):
        count += 1
        total += len(value)
        if touch:
            total += int(np.frombuffer(value, np.uint8)[::4096].sum())
    seconds = time.perf_counter() - start
    return {"samples_per_second": count / seconds, "num_samples": count, "total": total}


def index(way: str, shard: Path) -> dict[str, float]:
    """Members a second of going over a tar archive."""
    from iopipe.readers.index import build_index

    start = time.perf_counter()
    if way == "iopipe":
        count = len(build_index(iopipe.PosixStore(), str(shard)))
    elif way == "tarfile":
        with tarfile.open(shard) as archive:
            count = sum(1 for _ in archive)
    else:
        target = shard.with_suffix(".idx")
        subprocess.run([*way.split(), str(shard), str(target)], check=True, capture_output=True)
        count = len(target.read_text().splitlines()) - 1
    return {"members_per_second": count / (time.perf_counter() - start), "num_members": count}


def main() -> None:
    """Warm up once, measure once, print one JSON row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("read", "index"))
    parser.add_argument("way")
    parser.add_argument("mode")
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--touch", action="store_true")
    options = parser.parse_args()
    for _ in range(2):
        if options.what == "read":
            row = read(options.way, options.shards, options.mode, options.touch)
        else:
            row = index(options.way, options.shards[0])
    print(json.dumps(row))


if __name__ == "__main__":
    sys.exit(main())

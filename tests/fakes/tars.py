"""Tar shards for tests, made by tarfile, and what is read from them.

Stands under the tests of WebDataset shards.  Invariant: no code of ours writes the archives.
"""

from __future__ import annotations

import gc
import io
import random
import tarfile
import warnings
from typing import Any

import webdataset

from iopipe.protocols import Samples, Store
from iopipe.readers import WebDatasetSource
from iopipe.storage import MemoryStore


def tar_of(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def some_members(num_samples: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """A jpg and a cls for each sample."""
    generator = random.Random(seed)
    members = []
    for number in range(num_samples):
        members.append((f"a/{number:05d}.jpg", generator.randbytes(generator.randint(1, 3000))))
        members.append((f"a/{number:05d}.cls", str(number).encode()))
    return members


def source_of(content: bytes, **options: Any) -> tuple[WebDatasetSource, MemoryStore]:
    memory = MemoryStore()
    memory.write("shard.tar", content)
    return WebDatasetSource(["shard.tar"], memory, **options), memory


def rows_of(samples: Samples) -> list[dict[str, Any]]:
    return [samples.row(row) for row in range(len(samples))]


def all_rows(source: WebDatasetSource, store: Store) -> list[dict[str, Any]]:
    return rows_of(source.samples(range(len(source)), store))


def read_by_webdataset(shards: list[str], names: tuple[str, ...]) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the collector
        samples = [
            {name: sample[name] for name in names}
            for sample in webdataset.WebDataset(shards, shardshuffle=False)
        ]
        gc.collect()
    return samples

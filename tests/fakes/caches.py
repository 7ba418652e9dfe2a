"""A cache of small blocks before any store, and what lies in its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fakes.object_server import ObjectServer

from iopipe.protocols import Store
from iopipe.storage.cache import CachedStore
from iopipe.storage.objects import ObjectStore

BLOCK = 4096
ENTRY = BLOCK + 32
CONTENT = np.random.default_rng(5).integers(0, 256, 20 * BLOCK + 17, dtype=np.uint8).tobytes()


def cached(below: Store | ObjectServer, folder: Path, *, num_blocks: int = 100) -> CachedStore:
    store = ObjectStore(below.url) if isinstance(below, ObjectServer) else below
    limit = num_blocks * ENTRY
    return CachedStore(store, folder, max_bytes=limit, block_bytes=BLOCK, num_threads=4)


def read(store: Store, path: str, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: store.read_into(path, offset, memoryview(buffer))])


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*"))


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in entries(folder))

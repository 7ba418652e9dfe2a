"""Stores with something to put objects into, in the same words for each, and reads out of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from fakes.object_server import ObjectServer

from iopipe.protocols import ReadRequest, Store
from iopipe.storage import MemoryStore
from iopipe.storage.cache import CachedStore
from iopipe.storage.objects import ObjectStore
from iopipe.storage.remote import RemoteStore

CONTENT = np.random.default_rng(7).integers(0, 256, 70_001, dtype=np.uint8).tobytes()
SIZE = len(CONTENT)


@dataclass(frozen=True)
class Place:
    """A store, and how to put objects into what it reads."""

    store: Store
    root: str
    put: Callable[[str, bytes], str]
    remove: Callable[[str], None]
    again: Callable[[], Store] | None = None
    """A new store of the same place, where a store keeps to the version that it saw first."""
    is_cache: bool = False
    num_requests: int = 1000
    """Of each of eight threads."""


def posix_place(folder: Path, store: Store) -> Place:
    def put(name: str, data: bytes) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return Place(store, f"{folder}/", put, os.unlink)


def remote_place(folder: Path) -> Place:
    """fsspec's own file system of local files stands for any other of it."""

    def put(name: str, data: bytes) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"file://{path}"

    store = RemoteStore(f"local://{folder}")
    return Place(store, f"file://{folder}/", put, lambda path: os.unlink(path[7:]))


def memory_place() -> Place:
    store = MemoryStore()

    def put(name: str, data: bytes) -> str:
        store.write("memory://set/" + name, data)
        return "memory://set/" + name

    return Place(store, "memory://set/", put, store.delete)


def objects_place(server: ObjectServer) -> Place:
    def put(name: str, data: bytes) -> str:
        server.objects[f"b/{name}"] = data
        return f"s3://b/{name}"

    def remove(path: str) -> None:
        del server.objects[path.removeprefix("s3://")]

    def again() -> Store:
        keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
        options = {**keys, "endpoint": server.endpoint, "virtual_hosted_style_request": False}
        return ObjectStore("s3://b", options=options, part_bytes=1 << 15, concurrency=8)

    return Place(again(), "s3://b/", put, remove, again=again, num_requests=125)


def cache_place(server: ObjectServer, folder: Path) -> Place:
    below = objects_place(server)
    below.store.close()

    def again() -> Store:
        assert below.again is not None
        return CachedStore(below.again(), folder / "c", max_bytes=1 << 20, block_bytes=8192)

    return replace(below, store=again(), again=again, is_cache=True)


def read(store: Store, path: str, offset: int, length: int) -> bytes:
    """`length` bytes asked for in a poisoned buffer; what came, the rest proven untouched."""
    buffer = bytearray(b"\xa5" * (length + 2))
    num_bytes = store.read_into(path, offset, memoryview(buffer)[1 : 1 + length])
    assert buffer[0] == 0xA5 and set(buffer[1 + num_bytes :]) <= {0xA5}
    return bytes(buffer[1 : 1 + num_bytes])


def submit(store: Store, ranges: list[tuple[str, int, int]]) -> list[bytes]:
    buffers = [bytearray(b"\xa5" * length) for _, _, length in ranges]
    requests = [
        ReadRequest(path, offset, memoryview(buffer))
        for (path, offset, _), buffer in zip(ranges, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    assert all(set(buffer[count:]) <= {0xA5} for buffer, count in zip(buffers, counts, strict=True))
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]

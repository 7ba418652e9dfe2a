"""What is read: files that are there, or one that the benchmark makes and takes away.

Stands between the command line and `sweep`.  Invariant: a file that was made is gone when the
block that made it is left, however it is left.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from iopipe.bench.storage.testfile import write_test_file
from iopipe.errors import NotFoundError, StorageError
from iopipe.storage import PosixStore, open_store
from iopipe.storage.object_client import SCHEMES
from iopipe.storage.posix import plain_path
from iopipe.topology.mounts import mount_of
from iopipe.topology.tree import Tree

_URL = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://")
_PATTERN = re.compile(r"[*?\[]")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Files of one place, read as one piece of storage."""

    name: str
    """As the user gave it."""
    files: tuple[tuple[str, int], ...]
    """(path, bytes)"""
    seed: int | None = None
    """Of the benchmark's own file; None where the files were there."""
    is_local: bool = True

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.files)

    @property
    def paths(self) -> list[Path]:
        return [Path(plain_path(path)) for path, _ in self.files]

    @property
    def filesystem(self) -> str:
        """'' where no mount holds it."""
        mount = mount_of(Tree(), str(self.paths[0])) if self.is_local else None
        return "" if mount is None else mount.kind

    @property
    def in_memory(self) -> bool:
        return self.filesystem in _IN_MEMORY


@contextmanager
def target_of(name: str, *, size_bytes: int, makes: bool = True) -> Iterator[Target]:
    """A folder gets a test file of `size_bytes`, or with `makes=False` gives what lies in it; a
    file, a URL or a pattern of them is read as it is."""
    if _URL.match(name):
        yield Target(name=name, files=_remote(name), is_local=False)
        return
    path = plain_path(name)
    if os.path.isdir(path) and makes:
        with _test_file(Path(path), size_bytes) as target:
            yield target
    else:
        yield Target(name=name, files=_local(path))


@contextmanager
def _test_file(folder: Path, size_bytes: int) -> Iterator[Target]:
    path = folder / f"iopipe-bench-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    seed = secrets.randbits(63)
    write_test_file(path, size_bytes, seed=seed)
    try:
        yield Target(name=str(folder), files=((str(path), size_bytes),), seed=seed)
    finally:
        path.unlink(missing_ok=True)


def _local(path: str) -> tuple[tuple[str, int], ...]:
    files = PosixStore()
    if os.path.isdir(path):
        found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        paths = sorted(str(one) for one in found if one.is_file())
    else:
        is_pattern = _PATTERN.search(path) and not os.path.exists(path)
        paths = files.glob(path) if is_pattern else [path]
    return _sized(path, [(one, files.size(one)) for one in paths])


def remote_backend(url: str) -> Literal["objects", "auto"]:
    """'auto' is what `open_store` picks by itself."""
    return "objects" if url.partition("://")[0].lower() in SCHEMES else "auto"


def _remote(url: str) -> tuple[tuple[str, int], ...]:
    store = open_store(url, prefer="objects" if remote_backend(url) == "objects" else None)
    try:
        paths = store.glob(url) if _PATTERN.search(url) else [url]
        return _sized(url, [(path, store.size(path)) for path in paths])
    finally:
        store.close()


def _sized(name: str, files: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    shown = name.partition("?")[0] if "://" in name else name
    if not files:
        raise NotFoundError(f"no file matches {shown!r}: check the path")
    filled = tuple((path, size) for path, size in files if size)
    if not filled:
        raise StorageError(f"there is not a byte in {shown!r}: give files with something in them")
    return filled

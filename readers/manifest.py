"""The list of a dataset's shards, written last: where it is, the dataset is complete.

Stands between writers and `open_source`.  Invariant: its entries name files below its own
folder; anything else in it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from iopipe.errors import DataError
from iopipe.protocols import Store
from iopipe.readers.atomic import write_atomically

NAME = "manifest.json"
SCHEMA = 1
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    path: str
    """Relative to the manifest, with forward slashes."""
    num_samples: int
    num_bytes: int
    checksum: str = ""
    """XXH3-64 of the shard, 16 hex digits; empty where its writer gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    format: str
    columns: tuple[str, ...]
    shards: tuple[ShardEntry, ...]

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` in one step."""
    content = {"schema": SCHEMA, "num_samples": manifest.num_samples, **asdict(manifest)}
    write_atomically(folder / NAME, (json.dumps(content, indent=1) + "\n").encode())


def read_manifest(store: Store, path: str) -> Manifest:
    """The manifest at `path`, as untrusted as every file of a dataset."""
    num_bytes = store.size(path)
    if num_bytes > _MAX_BYTES:
        raise DataError(f"a manifest of {num_bytes} bytes is not sane", shard=path)
    content = bytearray(num_bytes)
    num_read = store.read_into(path, 0, memoryview(content))
    return parse_manifest(bytes(content[:num_read]), path)


def parse_manifest(content: bytes, path: str) -> Manifest:
    """A manifest from untrusted bytes; `path` is for the messages."""
    try:
        raw = json.loads(content)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"its schema is {raw['schema']!r}, this version reads {SCHEMA}")
        return Manifest(
            format=str(raw["format"]),
            columns=tuple(str(name) for name in raw["columns"]),
            shards=tuple(_entry(shard) for shard in _list(raw["shards"])),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"the manifest is not valid ({error!r}); write the dataset again", shard=path
        ) from error


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError("shards is no list")
    return value


def _entry(raw: Any) -> ShardEntry:
    path = raw["path"]
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "://" in path or not pure.parts:
        raise ValueError(f"path {path!r} leads out of the dataset's folder")
    num_samples, num_bytes = raw["num_samples"], raw["num_bytes"]
    if not (isinstance(num_samples, int) and isinstance(num_bytes, int)):
        raise ValueError(f"the counts of {path!r} are no numbers")
    checksum = raw.get("checksum", "")
    if not isinstance(checksum, str) or len(checksum) not in (0, 16):
        raise ValueError(f"the checksum of {path!r} is no XXH3-64")
    return ShardEntry(path=path, num_samples=num_samples, num_bytes=num_bytes, checksum=checksum)

"""The index.json of MosaicML Streaming's datasets: which shards there are.

Stands beside `readers.mds`.  Invariant: what it names lies in its own folder, and its counts fit
the sizes that it gives.

Source: mosaicml/streaming, streaming/base/format/mds/writer.py, version 2 of the index.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass
from typing import Any

from iopipe.errors import DataError, NotFoundError
from iopipe.protocols import Store

INDEX = "index.json"
_VERSION = 2
_MAX_INDEX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class MDSShard:
    path: str
    num_samples: int
    num_bytes: int
    """Of the raw shard."""
    packed_bytes: int | None
    """None: the shard is not compressed."""
    names: tuple[str, ...]
    encodings: tuple[str, ...]


class MDSIndexes:
    """The index of each folder, read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listed: dict[str, list[MDSShard]] = {}

    def shards_of(self, path: str) -> list[MDSShard]:
        """The shards that a folder, an index or a shard stands for."""
        is_shard = path.endswith((".mds", ".mds.zstd"))
        folder = posixpath.dirname(path) if is_shard or path.endswith(INDEX) else path.rstrip("/")
        if folder not in self._listed:
            self._listed[folder] = _read_index(folder, path, self._store)
        found = [shard for shard in self._listed[folder] if not is_shard or shard.path == path]
        if not found and is_shard:
            raise DataError(f"{INDEX} does not list it", shard=path)
        return found


def _read_index(folder: str, path: str, store: Store) -> list[MDSShard]:
    index = posixpath.join(folder, INDEX)
    try:
        num_bytes = store.size(index)
    except NotFoundError as error:
        raise DataError(f"there is no {INDEX} beside it", shard=path) from error
    if num_bytes > _MAX_INDEX_BYTES:
        raise DataError(f"an index of {num_bytes} bytes is not sane", shard=index)
    content = bytearray(num_bytes)
    store.read_into(index, 0, memoryview(content))
    try:
        raw = json.loads(content)
        if raw["version"] != _VERSION:
            raise ValueError(f"its version is {raw['version']!r}, read is {_VERSION}")
        return [_parsed(entry, folder) for entry in raw["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"the index is not valid ({error!r})", shard=index) from error


def _parsed(entry: dict[str, Any], folder: str) -> MDSShard:
    if entry["format"] != "mds":
        raise ValueError(f"format {entry['format']!r} is not read, write mds")
    if entry["compression"] is not None and not str(entry["compression"]).startswith("zstd"):
        raise ValueError(f"compression {entry['compression']!r} is not read, use zstd or none")
    raw, packed = entry["raw_data"], entry["zip_data"] if entry["compression"] else None
    name = (packed or raw)["basename"]
    names, encodings = entry["column_names"], entry["column_encodings"]
    counts = [entry["samples"], raw["bytes"], *([packed["bytes"]] if packed else [])]
    if not all(isinstance(count, int) and 0 <= count < 1 << 62 for count in counts):
        raise ValueError(f"its counts are {counts}")
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"shard {name!r} leads out of the dataset's folder")
    if len(names) != len(encodings) or len(set(names)) != len(names):
        raise ValueError("its columns and encodings do not fit")
    if not all(isinstance(text, str) for text in (*names, *encodings)):
        raise ValueError("its columns are no text")
    if 4 * (entry["samples"] + 2) > raw["bytes"]:
        raise ValueError(f"{entry['samples']} samples do not fit {raw['bytes']} bytes")
    return MDSShard(
        path=posixpath.join(folder, name),
        num_samples=entry["samples"],
        num_bytes=raw["bytes"],
        packed_bytes=packed["bytes"] if packed else None,
        names=tuple(names),
        encodings=tuple(encodings),
    )

"""Indexes kept beside shards: a checksum, then an Arrow IPC file.

Stands under the formats that need an index of their own.  Invariant: a sidecar is as
untrusted as its shard, it is used only while it is not older than the shard, and one that
does not fit is built again, never repaired.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from iopipe.errors import DataError, NotFoundError
from iopipe.protocols import Store
from iopipe.readers.atomic import write_atomically

_logger = logging.getLogger(__name__)

SUFFIX = ".iopipe-index"
UNFIT = (DataError, pa.ArrowException, ValueError, KeyError, TypeError, ArithmeticError)
"""What reading a sidecar that was sealed by somebody else may raise: it is built again then."""
_CHECKSUM_BYTES = 16
_MAX_BYTES = 1 << 34


def seal(table: pa.Table, header: Mapping[str, Any]) -> bytes:
    """The content of a sidecar: `table` with `header` (JSON) as its metadata."""
    sink = pa.BufferOutputStream()
    marked = table.replace_schema_metadata({"iopipe": json.dumps(header)})
    with pa.ipc.new_file(sink, marked.schema) as writer:
        writer.write_table(marked)
    raw = sink.getvalue().to_pybytes()
    return _checksum(raw) + raw


def unseal(content: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """Table and header of a sidecar; a `DataError` where it is not what was sealed."""
    raw = content[_CHECKSUM_BYTES:]
    if _checksum(raw) != content[:_CHECKSUM_BYTES]:
        raise DataError("its checksum is wrong")
    try:
        table = pa.ipc.open_file(raw).read_all()
        table.validate(full=True)
        header = json.loads((table.schema.metadata or {}).get(b"iopipe", b"{}"))
    except (pa.ArrowException, ValueError, OSError, RecursionError) as error:
        raise DataError(f"it cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise DataError("its header is no JSON object")
    return table, header


def find_sidecars(store: Store, path: str) -> list[tuple[str, bytes]]:
    """(name, content) of the sidecars of a shard that are not older than it, the one beside
    it first."""
    local = store.local_path(path)
    if local is None:
        return _remote(store, path)
    shard_ns = os.stat(local).st_mtime_ns
    found = []
    for place in _places(local):
        try:
            about = place.stat()
            if stat.S_ISREG(about.st_mode) and about.st_mtime_ns >= shard_ns:
                found.append((place.name, place.read_bytes()))
        except FileNotFoundError:
            continue
        except OSError as error:
            _logger.warning("index %s cannot be read (%s)", place, error.strerror)
    return found


def store_sidecar(store: Store, path: str, content: bytes) -> None:
    """Keep a sidecar beside its shard, else in the cache folder (`XDG_CACHE_HOME`, by
    default `~/.cache`); shards that are no local files get none."""
    local = store.local_path(path)
    if local is None:
        return
    refusals = []
    for place in _places(local):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, content)
            return
        except OSError as error:
            refusals.append(f"{place}: {error.strerror}")
    _logger.warning("no index was stored (%s); it is built at every start", "; ".join(refusals))


def _remote(store: Store, path: str) -> list[tuple[str, bytes]]:
    name = path + SUFFIX
    try:
        num_bytes = store.size(name)
    except NotFoundError:
        return []
    if num_bytes > _MAX_BYTES:
        raise DataError(f"its index of {num_bytes} bytes is not sane; delete it", shard=path)
    content = bytearray(num_bytes)
    num_read = store.read_into(name, 0, memoryview(content))
    return [(name, bytes(content[:num_read]))]


def _places(local: str) -> list[Path]:
    beside = Path(local + SUFFIX)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if cache.startswith("~"):  # a user without a home, as in some containers
        return [beside]
    return [beside, Path(cache, "iopipe", "index", _digest_name(os.path.abspath(local)))]


def _digest_name(path: str) -> str:
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()

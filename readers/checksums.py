"""Checksums of samples and shards: written beside the data, compared when asked for.

Stands around every format.  Invariant: a checksum is taken of the values as the reader
gives them back, so that one comparison covers storage, framing and decoding of the format.

Source of the function: Y. Collet, xxHash, the 64-bit variant of XXH3.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from iopipe.errors import DataError, NotFoundError
from iopipe.protocols import (
    ByteRange,
    Int64Array,
    Location,
    Samples,
    Source,
    Store,
)

SUFFIX = ".iopipe-checksums"
NO_KEY = 0
"""In place of a key's hash where the format stores no keys."""
_MAGIC = b"iopipe-checksums-1\n\0\0\0\0\0"
_HEADER = struct.Struct("<24sQQ")
_PIECE_BYTES = 1 << 22


def fingerprint(fields: Mapping[str, Any]) -> int:
    """XXH3-64 of one sample's fields, by name in sorted order; `__key__` is left out.

    Every value is hashed with its name, kind and length, so that bytes cannot move from one
    field to the next unseen.
    """
    state = xxhash.xxh3_64()
    _update(state, fields)
    return state.intdigest()


def fingerprint128(fields: Mapping[str, Any]) -> int:
    """`fingerprint` with 128 bits: for telling samples apart, not only for noticing damage."""
    state = xxhash.xxh3_128()
    _update(state, fields)
    return state.intdigest()


def _update(state: xxhash.xxh3_64 | xxhash.xxh3_128, fields: Mapping[str, Any]) -> None:
    for name in sorted(fields):
        if name != "__key__":
            kind, content = _content(fields[name])
            state.update(b"%s=%s%d:" % (name.encode(), kind, len(content)))
            state.update(content)


def _content(value: Any) -> tuple[bytes, bytes | memoryview]:
    if isinstance(value, bytes):
        return b"b", value
    if isinstance(value, bytearray | memoryview):
        view = memoryview(value)
        return b"b", view.cast("B") if view.contiguous and view.nbytes else view.tobytes()
    if isinstance(value, str):
        return b"s", value.encode("utf-8", "surrogatepass")
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.asarray(value)
        kind = f"a{array.dtype.newbyteorder('<').str}{list(array.shape)}".encode()
        return kind, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"j", json.dumps(value, sort_keys=True, default=_plain).encode()


def _plain(value: Any) -> Any:
    """What JSON has no word for: nested bytes and arrays, dates, decimals."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def shard_checksum(store: Store, path: str) -> str:
    """XXH3-64 of a whole shard, as the manifest has it: 16 hex digits."""
    state = xxhash.xxh3_64()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    offset = 0
    while num_read := store.read_into(path, offset, buffer):
        state.update(buffer[:num_read])
        offset += num_read
    return state.hexdigest()


# ---- the sidecar ---------------------------------------------------------------------


def key_hash(key: str) -> int:
    """What finds a sample again where a damaged shard has lost others."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


def pack_checksums(keys: Sequence[int], checksums: Sequence[int]) -> bytes:
    """The content of a shard's sidecar.

    A header (name and version, number of samples, XXH3-64 of the rest), then the hashes of
    the keys, then the fingerprints, little-endian uint64 each.
    """
    body = np.array([keys, checksums], "<u8").tobytes()
    return _HEADER.pack(_MAGIC, len(checksums), xxhash.xxh3_64_intdigest(body)) + body


def load_checksums(store: Store, shard: str) -> npt.NDArray[np.uint64]:
    """uint64 [2, n]: hashes of the keys and fingerprints of the samples of a shard."""
    path = shard + SUFFIX
    try:
        num_bytes = store.size(path)
    except NotFoundError as error:
        raise DataError(
            "it has no sidecar of checksums, so samples cannot be verified; write the "
            "dataset with iopipe or use verify='off'",
            shard=shard,
        ) from error
    content = bytearray(num_bytes)
    num_read = store.read_into(path, 0, memoryview(content))
    body = bytes(content[_HEADER.size : num_read])
    header = (_MAGIC, len(body) // 16, xxhash.xxh3_64_intdigest(body))
    if len(body) % 16 or num_read < _HEADER.size or _HEADER.unpack_from(content) != header:
        raise DataError("its sidecar of checksums is damaged; write the dataset again", shard=shard)
    return np.frombuffer(body, "<u8").reshape(2, -1)


def difference(
    noted_key: int, checksum: int, key: str, fields: Mapping[str, Any]
) -> Literal["key", "bytes"] | None:
    """What of a sample is not as it was noted: the hash of its key, or its fingerprint."""
    if noted_key not in (NO_KEY, key_hash(key)):
        return "key"
    return None if checksum == fingerprint(fields) else "bytes"


def rows_of(samples: Samples) -> Iterator[dict[str, Any]]:
    """The fields of each sample by name; bytes stay views."""
    for row in range(len(samples)):
        yield {name: column[row] for name, column in samples.columns.items()}


# ---- verification --------------------------------------------------------------------


class VerifiedSource:
    """A source that compares every sample it reads with its checksum.

    A sample that differs is a `DataError` with its row, so the pipeline's policy for
    damaged samples applies to it.
    """

    def __init__(self, source: Source, noted: npt.NDArray[np.uint64]) -> None:
        """`noted` is uint64 [2, n]: hash of the key and fingerprint of each sample of
        `source`."""
        self.shards = source.shards
        self.columns = source.columns
        self.schema = source.schema
        self.digest = source.digest
        self.faults = source.faults
        self.mean_bytes: float | None = getattr(source, "mean_bytes", None)
        self._source = source
        self._noted = noted

    def __len__(self) -> int:
        return len(self._source)

    def locate(self, sample_id: int) -> Location:
        return self._source.locate(sample_id)

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        return self._source.ranges(ids)

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        samples = self._source.samples(ids, store)
        keys, checksums = self._noted[:, samples.ids].tolist()
        for row, fields in enumerate(rows_of(samples)):
            part = difference(keys[row], checksums[row], samples.keys[row], fields)
            if part is not None:
                place = self.locate(int(samples.ids[row]))
                raise DataError(
                    f"the sample is not what was written: the checksum of its {part} differs; "
                    "copy the shard again",
                    row=row,
                    shard=place.shard,
                    offset=place.offset,
                    key=place.key,
                )
        return samples

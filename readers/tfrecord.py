"""TFRecord files of tf.train.Example records.

A reader: records of a file become `Samples`.  Invariant: no record is given out whose
checksum was not compared.

Source: tensorflow/core/lib/io/record_writer.h: uint64 length, uint32 masked CRC-32C of the
length, the data, uint32 masked CRC-32C of the data, all little-endian; a CRC is masked by a
rotation of 15 bits and the addition of 0xa282ead8.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import (
    ByteRange,
    Column,
    ErrorPolicy,
    Int64Array,
    Location,
    Samples,
    Source,
    Store,
)
from iopipe.readers.checksums import fingerprint
from iopipe.readers.encoder import Finished
from iopipe.readers.example import Value, pack_example, parse_example
from iopipe.readers.formats import Format, OpenOptions, WriteOptions
from iopipe.readers.gather import gather, plan_gathering
from iopipe.readers.rows import Rows
from iopipe.readers.sidecar import SUFFIX, UNFIT, find_sidecars, seal, store_sidecar, unseal

_logger = logging.getLogger(__name__)

_KEY = "__key__"
_LENGTH = struct.Struct("<QI")
_FOOTER_BYTES = 4
_VERSION = 1
_THREADS = 4
_KEYS_AT_ONCE = 64
_WINDOW_BYTES = 1 << 20


class TFRecordSource:
    """Random access to the examples of TFRecord files.

    A bytes feature of one value becomes bytes, of several a list of them; floats become
    float32 arrays [k], integers int64 arrays [k].  The columns are the features of the first
    record, and every record must have them.  The key is the feature `__key__` where there is
    one, else the sample's number.
    """

    def __init__(
        self,
        shards: Sequence[str],
        store: Store,
        *,
        columns: Sequence[str] | None = None,
        on_error: ErrorPolicy = "raise",
    ) -> None:
        self.shards = tuple(shards)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda shard: _load_index(store, shard), self.shards))
        self.faults: list[DataError] = [damage for _, damage in found if damage is not None]
        if on_error == "raise" and self.faults:
            raise self.faults[0]
        self._rows = Rows([len(places) for places, _ in found])
        places = np.concatenate([np.empty((0, 2), np.int64), *(places for places, _ in found)])
        self._offsets, self._lengths = places[:, 0], places[:, 1]
        first = self._first(store)
        names = [name for name in first if name != _KEY]
        unknown = [name for name in columns or () if name not in names]
        if unknown:
            raise PipelineError(f"fields {unknown} are not among {', '.join(names)}; use those")
        self.columns = tuple(columns or names)
        self.schema = pa.schema([(name, _type(first[name])) for name in self.columns])
        digest = hashlib.blake2b("\0".join(names).encode(), digest_size=16)
        for shard, (rows, _) in zip(self.shards, found, strict=True):
            digest.update(f"{shard.rsplit('/', 1)[-1]}\0".encode() + rows.tobytes())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, sample_id: int) -> Location:
        shards, _ = self._rows.place([sample_id])
        offset = int(self._offsets[sample_id]) - _LENGTH.size
        return Location(self.shards[int(shards[0])], offset, str(sample_id))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        return plan_gathering(*self._places(np.asarray(ids, np.int64))).ranges(self.shards)

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        rows = [self._parsed(row, record) for row, record in self._records(wanted, store)]
        columns: dict[str, Column] = {}
        for name in self.columns:
            for row, features in enumerate(rows):
                if name not in features:
                    raise DataError(f"the record has no feature {name!r}", row=row)
            columns[name] = [features[name] for features in rows]
        keys = [
            _key(features.get(_KEY), sample)
            for sample, features in zip(wanted.tolist(), rows, strict=True)
        ]
        return Samples(ids=wanted, keys=keys, columns=columns)

    def stored_keys(self, ids: Int64Array, store: Store) -> list[str]:
        """Reads whole records, some at a time."""
        parts = (ids[n : n + _KEYS_AT_ONCE] for n in range(0, len(ids), _KEYS_AT_ONCE))
        return [key for part in parts for key in self.samples(part, store).keys]

    def _places(self, ids: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        shards, _ = self._rows.place(ids)
        return shards, self._offsets[ids, None], self._lengths[ids, None] + _FOOTER_BYTES

    def _records(self, ids: Int64Array, store: Store) -> Iterator[tuple[int, memoryview]]:
        (column,) = gather(store, self.shards, *self._places(ids))
        for row, content in enumerate(column):
            view = memoryview(content)
            record, footer = view[:-_FOOTER_BYTES], view[-_FOOTER_BYTES:]
            if _masked_crc(record) != int.from_bytes(footer, "little"):
                raise DataError("the CRC-32C of the record is wrong", row=row)
            yield row, record

    def _parsed(self, row: int, record: memoryview) -> dict[str, Value]:
        try:
            return parse_example(record)
        except (ValueError, OverflowError) as error:
            raise DataError(f"the record is no tf.train.Example: {error}", row=row) from error

    def _first(self, store: Store) -> dict[str, Value]:
        """The features of the first record that can be read."""
        for sample in range(len(self)):
            try:
                ((_, record),) = self._records(np.array([sample]), store)
                return self._parsed(0, record)
            except DataError as error:
                place = self.locate(sample)
                error.shard, error.offset, error.key = place.shard, place.offset, place.key
                if not self.faults and sample == len(self) - 1:
                    raise
        return {}


def _key(value: Value | None, sample: int) -> str:
    return str(value, "utf-8", "replace") if isinstance(value, memoryview) else str(sample)


def _type(value: Value) -> pa.DataType:
    if isinstance(value, memoryview):
        return pa.binary()
    if isinstance(value, list):
        return pa.list_(pa.binary())
    return pa.list_(pa.from_numpy_dtype(value.dtype))


def _masked_crc(content: bytes | memoryview) -> int:
    crc: int = google_crc32c.value(bytes(content))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# ---- the index -----------------------------------------------------------------------


def _load_index(store: Store, path: str) -> tuple[Int64Array, DataError | None]:
    """Offset and length of each record's data [n, 2], from a sidecar that fits, else by
    walking the file; and the damage that ended the walk."""
    num_bytes = store.size(path)
    for name, content in find_sidecars(store, path):
        try:
            return _unpacked(content, num_bytes), None
        except UNFIT as error:
            _logger.info("index %s is built again: %s", name, error)
    places, damage = _walk(store, path, num_bytes)
    if damage is None:
        store_sidecar(store, path, _packed_index(places, num_bytes))
    return places, damage


def _packed_index(places: Int64Array, num_bytes: int) -> bytes:
    table = pa.table({"offset": places[:, 0], "length": places[:, 1]})
    return seal(table, {"version": _VERSION, "num_bytes": num_bytes})


def _unpacked(content: bytes, num_bytes: int) -> Int64Array:
    table, header = unseal(content)
    if (header["version"], header["num_bytes"]) != (_VERSION, num_bytes):
        raise DataError("it was made from another version of the shard")
    columns = [table[name].to_numpy() for name in ("offset", "length")]
    places = np.stack([column.astype(np.int64) for column in columns], axis=1)
    ends = places.sum(axis=1) + _FOOTER_BYTES
    starts = np.concatenate([[0], ends])
    if (places < 0).any() or (places[:, 0] != starts[:-1] + _LENGTH.size).any():
        raise DataError("its records do not lie one after the other")
    if starts[-1] != num_bytes:
        raise DataError("it does not end where the shard does")
    return places


def _walk(store: Store, path: str, num_bytes: int) -> tuple[Int64Array, DataError | None]:
    """From length to length; each one's checksum is compared before it is believed."""
    places: list[tuple[int, int]] = []
    window, start, offset = b"", 0, 0
    while offset < num_bytes:
        if not start <= offset <= start + len(window) - _LENGTH.size:
            buffer = bytearray(min(_WINDOW_BYTES, num_bytes - offset))
            num_read = store.read_into(path, offset, memoryview(buffer))
            window, start = bytes(buffer[:num_read]), offset
        header = window[offset - start : offset - start + _LENGTH.size]
        reason = None
        if len(header) < _LENGTH.size:
            reason = "the file ends inside the length of a record"
        else:
            length, crc = _LENGTH.unpack(header)
            if crc != _masked_crc(header[:8]):
                reason = "the CRC-32C of a record's length is wrong"
            elif offset + _LENGTH.size + length + _FOOTER_BYTES > num_bytes:
                reason = f"a record of {length} bytes runs past the end of the file"
        if reason is not None:
            damage = DataError(f"{reason}; write the shard again", shard=path, offset=offset)
            return np.array(places, np.int64).reshape(-1, 2), damage
        places.append((offset + _LENGTH.size, length))
        offset += _LENGTH.size + length + _FOOTER_BYTES
    return np.array(places, np.int64).reshape(-1, 2), None


# ---- writing -------------------------------------------------------------------------


class TFRecordEncoder:
    """An `Encoder` for records of tf.train.Example; the key is stored as the feature
    `__key__`."""

    def __init__(self, sink: BinaryIO, options: WriteOptions) -> None:
        if options.compression is not None or options.schema is not None:
            raise PipelineError("TFRecord shards have neither compression nor a schema here")
        self._sink = sink
        self._columns: tuple[str, ...] = ()
        self._places: list[tuple[int, int]] = []
        self._checksums: list[int] = []
        self.num_bytes = 0

    def write(self, sample: Mapping[str, Any]) -> None:
        key = str(sample[_KEY])
        names = tuple(name for name in sample if name != _KEY)
        if self._columns and set(names) != set(self._columns):
            raise DataError(
                f"the sample has fields {sorted(names)}, those before it "
                f"{sorted(self._columns)}; write the same fields for all",
                key=key,
            )
        try:
            record = pack_example({**sample, _KEY: key})
        except (TypeError, ValueError) as error:
            raise DataError(f"it cannot be a tf.train.Example: {error}", key=key) from error
        self._columns = self._columns or names
        length = struct.pack("<Q", len(record))
        parts = (
            length,
            struct.pack("<I", _masked_crc(length)),
            record,
            struct.pack("<I", _masked_crc(record)),
        )
        for part in parts:
            self._sink.write(part)
        self._places.append((self.num_bytes + _LENGTH.size, len(record)))
        self.num_bytes += sum(map(len, parts))
        features = parse_example(memoryview(record))
        self._checksums.append(fingerprint(features))

    def finish(self) -> Finished:
        places = np.array(self._places, np.int64).reshape(-1, 2)
        return Finished(
            columns=self._columns,
            checksums=self._checksums,
            companions={SUFFIX: _packed_index(places, self.num_bytes)},
        )


def _is_content(head: bytes, path: str) -> bool:
    """A length whose checksum is right."""
    if len(head) < _LENGTH.size:
        return False
    return bool(_LENGTH.unpack_from(head)[1] == _masked_crc(head[:8]))


def _open(shards: Sequence[str], store: Store, options: OpenOptions) -> Source:
    return TFRecordSource(shards, store, columns=options.columns, on_error=options.on_error)


FORMAT = Format(
    name="tfrecord",
    suffixes=(".tfrecord", ".tfrecords"),
    is_content=_is_content,
    open=_open,
    encoder=TFRecordEncoder,
)

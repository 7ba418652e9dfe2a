"""A compact log of which samples a rank was delivered, step by step.

Written by a run, read by `audit`.  Invariant: a file that was cut at any byte reads back as all
records that were whole before the cut.

Layout: frames, each a uint32 length and the uint32 crc32c of the payload (both little-endian),
then the payload.  The first payload is a JSON object (`Header`), each other a record: unsigned
LEB128 numbers `epoch, first, num_planned, position, num_delivered, num_left_out`, then the ids
of those delivered and of those left out, in one row of little-endian bits, `bits` of them each.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np

from iopipe.errors import DataError, StorageError
from iopipe.protocols import Int64Array

VERSION = 1
SUFFIX = ".ledger"
_FRAME = struct.Struct("<II")
_MAX_HEADER_BYTES = 1 << 24
_NUM_NUMBERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a ledger's records belong to."""

    identity: dict[str, Any]
    """Dataset and order, as a state names them."""
    num_samples: int
    """Of the dataset: ids are below it, but for those of packed sequences."""
    rank: int
    world: int
    tail: str
    batch_size: int | None
    drop_last: bool
    in_order: bool
    entry: dict[str, Any]
    """Epoch, position and pending positions at which the run started."""
    started_ns: int = field(default_factory=time.time_ns)
    """Since 1970: tells which of two starts was the later one."""
    version: int = VERSION

    @property
    def bits(self) -> int:
        if "pack" in self.identity:  # ids are numbers of sequences, see `iopipe.packing`
            return 63
        return max((self.num_samples - 1).bit_length(), 1)

    @property
    def end_of_ids(self) -> int:
        """Ids are below it."""
        return 1 << 63 if "pack" in self.identity else max(self.num_samples, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One delivery: a batch, or a sample where none are batched."""

    epoch: int
    first: int
    """Samples of this rank that came before it, since the run entered the epoch."""
    num_planned: int
    """Of this rank's turns: delivered, left out or there to fill up the batch."""
    position: int
    """Of the epoch, after the step, where batches come in order; else 0."""
    ids: Int64Array
    left_out: Int64Array
    """Damaged ones, and those that a function answered with None."""


class LedgerWriter:
    """Appends records to a new file; each is with the operating system when `append` returns,
    so that a killed process loses none."""

    def __init__(self, folder: str | os.PathLike[str], header: Header) -> None:
        self._bits = header.bits
        name = f"{header.started_ns}-rank{header.rank:06d}{SUFFIX}"
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = open(Path(folder, name), "xb", buffering=0)
        except OSError as error:
            raise StorageError(
                f"cannot begin a ledger in {os.fspath(folder)!r}: {error.strerror}; give a folder "
                "that this process may write to"
            ) from error
        self._write(json.dumps(asdict(header)).encode())

    def append(self, record: Record) -> None:
        numbers = (
            record.epoch,
            record.first,
            record.num_planned,
            record.position,
            len(record.ids),
            len(record.left_out),
        )
        ids = np.concatenate([record.ids, record.left_out])
        self._write(b"".join(map(_leb128, numbers)) + _pack(ids, self._bits))

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def __enter__(self) -> LedgerWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, payload: bytes) -> None:
        frame = _FRAME.pack(len(payload), google_crc32c.value(payload)) + payload
        try:
            while frame:
                frame = frame[self._file.write(frame) :]
        except OSError as error:
            raise StorageError(
                f"cannot write the ledger {self._file.name!r}: {error.strerror}; free space or run "
                "without a ledger"
            ) from error


class LedgerReader:
    """The header, and the records one after the other."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.num_torn_bytes = 0
        """Behind the last whole record, once `records` has come to its end."""
        self._num_bytes = os.path.getsize(path)
        with open(path, "rb") as file:
            payload = _next_payload(file, self._num_bytes, _MAX_HEADER_BYTES)
            self._start = file.tell()
        if payload is None:
            raise DataError("this ledger has no whole header", shard=self.path)
        self.header = _header(payload, self.path)

    def records(self) -> Iterator[Record]:
        bits = self.header.bits
        with open(self.path, "rb") as file:
            file.seek(self._start)
            end = self._start
            while (payload := _next_payload(file, self._num_bytes, self._num_bytes)) is not None:
                yield self._checked(_record(payload, bits, self.path))
                end = file.tell()
            self.num_torn_bytes = self._num_bytes - end

    def _checked(self, record: Record) -> Record:
        most = max((int(ids.max()) for ids in (record.ids, record.left_out) if len(ids)), default=0)
        if most >= self.header.end_of_ids:
            raise DataError(
                f"a record names sample {most} of {self.header.num_samples}", shard=self.path
            )
        return record


def _next_payload(file: Any, num_bytes: int, most: int) -> bytes | None:
    """None where the rest of the file is no whole frame."""
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, checksum = _FRAME.unpack(frame)
    if length > min(most, num_bytes - file.tell()):
        return None
    payload: bytes = file.read(length)
    return payload if google_crc32c.value(payload) == checksum else None


def _header(payload: bytes, path: str) -> Header:
    try:
        fields = json.loads(payload)
        if fields.get("version") != VERSION:
            raise DataError(
                f"this ledger has version {fields.get('version')!r}, known is {VERSION}", shard=path
            )
        return Header(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"this ledger's header is no header: {error}", shard=path) from error


def _record(payload: bytes, bits: int, path: str) -> Record:
    numbers, place = [], 0
    for _ in range(_NUM_NUMBERS):
        number, place = _unleb128(payload, place)
        numbers.append(number)
    epoch, first, num_planned, position, num_delivered, num_left_out = numbers
    if len(payload) - place != -(-(num_delivered + num_left_out) * bits // 8):
        raise DataError("a record's ids do not fit its length", shard=path)
    ids = _unpack(payload[place:], num_delivered + num_left_out, bits)
    return Record(
        epoch=epoch,
        first=first,
        num_planned=num_planned,
        position=position,
        ids=ids[:num_delivered],
        left_out=ids[num_delivered:],
    )


def _pack(ids: Int64Array, bits: int) -> bytes:
    places = np.arange(bits, dtype=np.int64)
    return np.packbits(((ids[:, None] >> places) & 1).astype(np.uint8), bitorder="little").tobytes()


def _unpack(packed: bytes, num_ids: int, bits: int) -> Int64Array:
    flat = np.unpackbits(np.frombuffer(packed, np.uint8), count=num_ids * bits, bitorder="little")
    weights = np.int64(1) << np.arange(bits, dtype=np.int64)
    ids: Int64Array = flat.reshape(num_ids, bits).astype(np.int64) @ weights
    return ids


def _leb128(number: int) -> bytes:
    """Unsigned LEB128, as DWARF defines it (version 4, section 7.6)."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _unleb128(data: bytes, place: int) -> tuple[int, int]:
    """(number, where the next one starts)."""
    number = shift = 0
    while True:
        if place >= len(data):
            raise DataError("a record of a ledger ends within its numbers")
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place

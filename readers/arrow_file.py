"""One Arrow IPC file or stream, looked through and opened.

Stands between the framing and the Arrow reader.  Invariant: nothing is unpacked whose size was
not checked, and what lies in a local file is mapped, not read.

Source: Apache Arrow columnar format, IPC file and streaming format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from iopipe.errors import DataError, StorageError
from iopipe.protocols import Store
from iopipe.readers.arrow_columns import Span
from iopipe.readers.arrow_framing import FILE_MAGIC, BatchFrame, check_footer, frames
from iopipe.readers.damage import of_arrow

_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class ArrowFile:
    path: str
    local: str | None
    """Where it is mapped from; None: it was read."""
    memory: pa.Buffer
    """The whole file."""
    schema: pa.Schema
    frames: list[BatchFrame]
    """Of the record batches."""
    reader: Any
    """Of a file: gives batches by number."""
    batches: tuple[pa.RecordBatch, ...]
    """Of a stream."""
    max_batch_bytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels as its name, to be mapped again, or as its bytes."""
        memory = self.memory if self.local is None else None
        return _parsed, (self.path, self.local, memory, self.max_batch_bytes)

    def batch(self, number: int) -> pa.RecordBatch:
        """A record batch with as many rows as its frame says; it is not validated."""
        try:
            found = self.batches[number] if self.reader is None else self.reader.get_batch(number)
        except _DAMAGE as error:
            raise of_arrow(error, self.path, f"record batch {number} cannot be read") from error
        if found.num_rows != self.frames[number].num_rows:
            raise DataError(f"record batch {number} has not the rows it says", shard=self.path)
        return found

    def places(self, spans: list[Span]) -> list[Span]:
        """Memory spans as (offset, length) in the file; those outside of it are left out."""
        start, end = self.memory.address, self.memory.address + self.memory.size
        return [
            (address - start, length)
            for address, length in spans
            if start <= address and address + length <= end
        ]


def open_arrow(path: str, store: Store, max_batch_bytes: int) -> ArrowFile:
    """`DataError` where the file is damaged, or unpacks to too much."""
    local = store.local_path(path)
    memory = None if local is not None else _read_whole(path, store)
    return _parsed(path, local, memory, max_batch_bytes)


def no_file(path: str, schema: pa.Schema) -> ArrowFile:
    """In place of one that is damaged as a whole: it has no rows."""
    return ArrowFile(path, None, pa.py_buffer(b""), schema, [], None, (), 0)


def _parsed(
    path: str, local: str | None, content: pa.Buffer | None, max_batch_bytes: int
) -> ArrowFile:
    try:
        memory = _mapped(local) if local is not None else content or pa.py_buffer(b"")
        found = frames(memoryview(memory), path)
        is_file = memory[: len(FILE_MAGIC)].to_pybytes() == FILE_MAGIC
        _check_sizes(found, is_file, max_batch_bytes, path)
        batches = [frame for frame in found if not frame.is_dictionary]
        if is_file:
            check_footer(memoryview(memory), found, path)
            reader = pa.ipc.open_file(memory)
            return ArrowFile(
                path, local, memory, reader.schema, batches, reader, (), max_batch_bytes
            )
        stream = pa.ipc.open_stream(memory)
        return ArrowFile(
            path, local, memory, stream.schema, batches, None, tuple(stream), max_batch_bytes
        )
    except (DataError, StorageError):
        raise
    except (*_DAMAGE, MemoryError) as error:
        raise of_arrow(error, path, "it is no valid Arrow IPC file; write it again") from error


def _check_sizes(found: list[BatchFrame], is_file: bool, max_batch_bytes: int, path: str) -> None:
    for frame in found:
        if frame.is_packed and frame.num_unpacked_bytes > max_batch_bytes:
            raise DataError(
                f"a batch unpacks to {frame.num_unpacked_bytes} bytes, allowed are "
                f"{max_batch_bytes}; raise max_sample_bytes",
                shard=path,
            )
    held = [f for f in found if f.is_packed and (f.is_dictionary or not is_file)]
    num_held_bytes = sum(frame.num_unpacked_bytes for frame in held)
    if num_held_bytes > max_batch_bytes:
        raise DataError(
            f"its dictionaries, or all batches of a stream, unpack to {num_held_bytes} bytes, "
            f"allowed are {max_batch_bytes}; raise max_sample_bytes or write it as a file",
            shard=path,
        )


def _mapped(path: str) -> pa.Buffer:
    # The mapping stays valid after its file object is closed, so no descriptor is kept.
    with pa.memory_map(path) as file:
        return file.read_buffer()


def _read_whole(path: str, store: Store) -> pa.Buffer:
    content = bytearray(store.size(path))
    num_bytes = store.read_into(path, 0, memoryview(content))
    return pa.py_buffer(memoryview(content)[:num_bytes])

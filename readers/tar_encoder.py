"""WebDataset shards, written: each field of a sample is a member of a tar archive.

The writing side of the WebDataset format.  Invariant: a sample that is written is read back
the same, or refused; the index that lies beside the shard is the one a reader would build.

Source of the convention: T. Breuel, the WebDataset format specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from iopipe.errors import DataError, PipelineError
from iopipe.readers.checksums import fingerprint
from iopipe.readers.encoder import Finished
from iopipe.readers.formats import WriteOptions
from iopipe.readers.index import pack_index
from iopipe.readers.plain_arrays import string_array
from iopipe.readers.shard_index import ShardIndex, is_outside, split_name, storable
from iopipe.readers.sidecar import SUFFIX
from iopipe.readers.tar import BLOCK_BYTES, END_OF_ARCHIVE, header_blocks, padding


class TarEncoder:
    """An `Encoder` for one archive; fields are bytes, str or whole numbers."""

    def __init__(self, sink: BinaryIO, options: WriteOptions) -> None:
        if options.compression is not None or options.schema is not None:
            raise PipelineError(
                "tar shards have neither compression nor a schema; leave them out or write arrow"
            )
        self._sink = sink
        self._columns: tuple[str, ...] = ()
        self._keys: dict[str, None] = {}
        self._places: list[int] = []
        """Offset and length of each member, sample by sample, in the order of the columns."""
        self._checksums: list[int] = []
        self._marks = (b"", b"")
        self._padding = b""  # of the last member, written with what follows it
        self.num_bytes = 0

    def write(self, sample: Mapping[str, Any]) -> None:
        key = sample.get("__key__")
        if not isinstance(key, str):
            raise DataError(f"its __key__ is {key!r}; give text", key=str(key))
        fields = {
            name: _as_bytes(name, value, key) for name, value in sample.items() if name != "__key__"
        }
        self._check(key, fields)
        self._columns = self._columns or tuple(fields)
        places: dict[str, tuple[int, int]] = {}
        for name, content in fields.items():
            header = header_blocks(f"{key}.{name}", len(content))
            offset = self.num_bytes + len(header)
            places[name] = (offset, len(content))
            self._sink.write(self._padding + header)
            self._sink.write(content)
            self._padding = padding(len(content))
            self.num_bytes = offset + len(content) + len(self._padding)
            self._marks = (self._marks[0] or header[:BLOCK_BYTES], header[-BLOCK_BYTES:])
        self._keys[key] = None
        for name in self._columns:
            self._places += places[name]
        self._checksums.append(fingerprint(fields))

    def finish(self) -> Finished:
        self._sink.write(self._padding + END_OF_ARCHIVE)
        self.num_bytes += len(END_OF_ARCHIVE)
        first, last = self._marks
        marks = (first or END_OF_ARCHIVE[:BLOCK_BYTES]) + (last or END_OF_ARCHIVE[:BLOCK_BYTES])
        index = pack_index(self._index(), self.num_bytes, marks)
        return Finished(
            columns=self._columns, checksums=self._checksums, companions={SUFFIX: index}
        )

    def _index(self) -> ShardIndex:
        places = np.array(self._places, np.int64).reshape(len(self._keys), len(self._columns), 2)
        keys = string_array([storable(key) for key in self._keys])
        return ShardIndex(self._columns, keys, places[..., 0], places[..., 1])

    def _check(self, key: str, fields: Mapping[str, bytes]) -> None:
        """Refuse what would not be read back as it is; nothing is written yet."""
        if not fields:
            raise DataError("the sample has no fields", key=key)
        if self._columns and fields.keys() != set(self._columns):
            raise DataError(
                f"the sample has fields {sorted(fields)}, those before it "
                f"{sorted(self._columns)}; write the same fields for all",
                key=key,
            )
        if is_outside(key):
            raise DataError("its key leads out of the dataset; use a relative name", key=key)
        if key in self._keys:
            raise DataError("another sample of this shard has the same key", key=key)
        for name, content in fields.items():
            if split_name(f"{key}.{name}") != (key, name):
                raise DataError(
                    f"key {key!r} with field {name!r} is read back as "
                    f"{split_name(f'{key}.{name}')}; use keys without dots in their last part "
                    "and lower-case fields",
                    key=key,
                )
            if not content:
                raise DataError(f"field {name!r} has no bytes, which reads as damage", key=key)


def _utf8(name: str, value: str, key: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"field {name!r} is no text of UTF-8: {error}", key=key) from error


def _as_bytes(name: str, value: Any, key: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return _utf8(name, value, key)
    if isinstance(value, int | np.integer):
        return str(value).encode()
    raise DataError(
        f"field {name!r} is a {type(value).__name__}; encode it as bytes, str or a whole number",
        key=key,
    )

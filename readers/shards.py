"""Writes WebDataset shards with their indexes and a manifest.

The writing side of the WebDataset format.  Invariant: a shard appears under its name only
when it is complete, and the manifest only when all shards are; the same samples make the
same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.readers.index import SUFFIX, IndexBuilder, save_index, split_name, stamp_of
from iopipe.readers.manifest import NAME, Manifest, ShardEntry, write_manifest
from iopipe.readers.tar import END_OF_ARCHIVE, Member, header_blocks, padding
from iopipe.storage import PosixStore

_BUFFER_BYTES = 1 << 20


class WebDatasetWriter:
    """Writes `shard-000000.tar`, `shard-000001.tar`, ... into a folder.

    A context manager: leaving it completes the dataset, leaving it with an error removes
    what is incomplete and writes no manifest.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_samples: int = 100_000,
        max_bytes: int = 1 << 30,
    ) -> None:
        if max_samples < 1 or max_bytes < 1:
            raise PipelineError(
                f"max_samples is {max_samples}, max_bytes {max_bytes}; both must be at least 1"
            )
        self._folder = Path(folder)
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._columns: tuple[str, ...] = ()
        self._entries: list[ShardEntry] = []
        self._shard: _Shard | None = None

    def __enter__(self) -> WebDatasetWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / NAME).unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._complete_shard()
                shards = tuple(self._entries)
                manifest = Manifest(format="webdataset", columns=self._columns, shards=shards)
                write_manifest(self._folder, manifest)
        finally:
            if self._shard is not None:
                self._shard.discard()

    def write(self, sample: Mapping[str, Any]) -> None:
        """Append one sample: `__key__` and its fields, each bytes, str or a whole number."""
        key = sample["__key__"]
        fields = {
            name: _as_bytes(name, value) for name, value in sample.items() if name != "__key__"
        }
        if not self._columns:
            self._columns = tuple(fields)
        if set(fields) != set(self._columns):
            raise DataError(
                f"the sample has fields {sorted(fields)}, those before it "
                f"{sorted(self._columns)}; write the same fields for all",
                key=key,
            )
        if self._shard is None:
            name = f"shard-{len(self._entries):06d}.tar"
            self._shard = _Shard(self._folder / name)
        self._shard.write(key, fields)
        is_full = self._shard.num_bytes >= self._max_bytes
        if is_full or self._shard.num_samples >= self._max_samples:
            self._complete_shard()

    def _complete_shard(self) -> None:
        if self._shard is not None:
            self._entries.append(self._shard.complete())
            self._shard = None


class _Shard:
    """One archive being written, under a temporary name until it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO = open(self._temporary, "wb", buffering=_BUFFER_BYTES)
        self._builder = IndexBuilder()
        self.num_bytes = 0
        self.num_samples = 0

    def write(self, key: str, fields: Mapping[str, bytes]) -> None:
        for name, content in fields.items():
            member = f"{key}.{name}"
            if split_name(member) != (key, name):
                raise DataError(
                    f"key {key!r} with field {name!r} is read back as {split_name(member)}; "
                    "use keys without dots in their last part and lower-case fields",
                    key=key,
                )
            header = header_blocks(member, len(content))
            self._builder.add(key, name, Member(member, self.num_bytes + len(header), len(content)))
            tail = padding(len(content))
            with _writing(self._path):
                for part in (header, content, tail):
                    self._file.write(part)
            self.num_bytes += len(header) + len(content) + len(tail)
        if self._builder.faults:
            fault = self._builder.faults[0]
            raise DataError(fault.reason, shard=self._path.name, key=key)
        self.num_samples += 1

    def complete(self) -> ShardEntry:
        with _writing(self._path):
            self._file.write(END_OF_ARCHIVE)
            self._file.close()
            os.replace(self._temporary, self._path)
        store, place = PosixStore(), Path(f"{self._path}{SUFFIX}")
        save_index(self._builder.build(), stamp_of(store, str(self._path)), [place])
        num_bytes = self.num_bytes + len(END_OF_ARCHIVE)
        return ShardEntry(path=self._path.name, num_samples=self.num_samples, num_bytes=num_bytes)

    def discard(self) -> None:
        """After an error, which is under way: another one from closing adds nothing."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk or a lost permission names the shard."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(
            f"cannot write {str(path)!r}: {reason}; make room or choose another folder"
        ) from error


def _as_bytes(name: str, value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return str(value).encode()
    raise DataError(
        f"field {name!r} is a {type(value).__name__}; encode it as bytes, str or a whole number"
    )

"""Writes shards and datasets of any format; the format only turns samples into bytes.

Stands between samples and storage on the way out.  Invariant: a shard appears under its
name only when it is complete, with the files beside it before it, and the manifest only
when all shards are; the same samples make the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.readers.atomic import write_atomically
from iopipe.readers.checksums import NO_KEY, SUFFIX, key_hash, pack_checksums
from iopipe.readers.encoder import Encoder
from iopipe.readers.formats import Format, WriteOptions, find_format
from iopipe.readers.manifest import NAME, Manifest, ShardEntry, write_manifest
from iopipe.readers.sink import HashedFile


class ShardWriter:
    """Writes one shard, under a temporary name until it is complete."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: Format,
        options: WriteOptions,
        *,
        is_behind: bool = False,
    ) -> None:
        """`is_behind` has a thread hash and write what was given, while more is made; what
        fails there is raised by a later call."""
        if format.encoder is None:
            raise PipelineError(f"format {format.name!r} can only be read; write another one")
        self._path = Path(path)
        self._temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with _writing(self._path):
            self._file = HashedFile(self._temporary, is_behind=is_behind)
        # What encoders use of a file is what this one has.
        self._encoder: Encoder = format.encoder(cast(BinaryIO, self._file), options)
        self._keys: list[int] = []

    @property
    def num_bytes(self) -> int:
        return self._encoder.num_bytes

    @property
    def num_samples(self) -> int:
        return len(self._keys)

    def write(self, sample: Mapping[str, Any]) -> None:
        try:
            self._encoder.write(sample)
        except StorageError:
            raise
        except OSError as error:
            raise _named(error, self._path) from error
        self._keys.append(key_hash(str(sample.get("__key__", len(self._keys)))))

    def complete(self) -> tuple[ShardEntry, tuple[str, ...]]:
        """Publish the shard; what the manifest says of it, and its columns."""
        with _writing(self._path):
            finished = self._encoder.finish()
            self._file.close()
            for suffix, content in finished.siblings.items():
                write_atomically(self._path.with_suffix(suffix), content)
            for suffix, content in finished.companions.items():
                write_atomically(Path(f"{self._path}{suffix}"), content)
            keys = self._keys if finished.stores_keys else [NO_KEY] * len(self._keys)
            sidecar = pack_checksums(keys, finished.checksums)
            write_atomically(Path(f"{self._path}{SUFFIX}"), sidecar)
            os.replace(self._temporary, self._path)
        entry = ShardEntry(
            path=self._path.name,
            num_samples=len(self._keys),
            num_bytes=self._file.num_bytes,
            checksum=self._file.checksum,
        )
        return entry, finished.columns

    def discard(self) -> None:
        """Remove what was written so far."""
        self._file.discard()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> StorageError:
    """A full disk or a lost permission, with the shard's name."""
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"cannot write {str(path)!r}: {reason}; make room or choose another folder")


class DatasetWriter:
    """Writes `shard-000000.tar`, `shard-000001.tar`, ... and a manifest into a folder.

    A context manager: leaving it completes the dataset, leaving it with an error removes
    what is incomplete and writes no manifest.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        format: str = "webdataset",
        max_samples: int = 100_000,
        max_bytes: int = 1 << 30,
        options: WriteOptions | None = None,
    ) -> None:
        """`format` is one of webdataset, arrow, parquet, tokens, tfrecord; `options` are
        its own.  A shard is full at `max_samples` or, roughly, at `max_bytes`."""
        if max_samples < 1 or max_bytes < 1:
            raise PipelineError(
                f"max_samples is {max_samples}, max_bytes {max_bytes}; both must be at least 1"
            )
        self._folder = Path(folder)
        self._format = find_format(format)
        self._options = options or WriteOptions()
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._columns: tuple[str, ...] = ()
        self._entries: list[ShardEntry] = []
        self._shard: ShardWriter | None = None

    def __enter__(self) -> DatasetWriter:
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
                write_manifest(
                    self._folder,
                    Manifest(
                        format=self._format.name,
                        columns=self._columns,
                        shards=tuple(self._entries),
                    ),
                )
        finally:
            if self._shard is not None:
                self._shard.discard()

    def write(self, sample: Mapping[str, Any]) -> None:
        """Append one sample: `__key__` and its fields."""
        if self._shard is None:
            name = f"shard-{len(self._entries):06d}{self._format.suffixes[0]}"
            self._shard = ShardWriter(self._folder / name, self._format, self._options)
        self._shard.write(sample)
        is_full = self._shard.num_bytes >= self._max_bytes
        if is_full or self._shard.num_samples >= self._max_samples:
            self._complete_shard()

    def _complete_shard(self) -> None:
        if self._shard is not None:
            entry, columns = self._shard.complete()
            self._shard = None
            if self._entries and set(columns) != set(self._columns):
                raise DataError(
                    f"its samples have fields {list(columns)}, those before it "
                    f"{list(self._columns)}; write the same fields for all",
                    shard=entry.path,
                )
            self._entries.append(entry)
            self._columns = self._columns or columns

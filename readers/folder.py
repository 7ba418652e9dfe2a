"""Loose files in a folder: one sample a file, its class the name of its folder.

A reader: files of the local filesystem become `Samples`.  Invariant: nothing outside of the
folder is read, whatever links lie in it.

Source of the convention: torchvision's ImageFolder (sorted classes, sorted files below each).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, NotFoundError, PipelineError, StorageError
from iopipe.protocols import ByteRange, Column, Int64Array, Location, Samples, Source, Store
from iopipe.readers.formats import Format, OpenOptions
from iopipe.readers.shard_index import split_name

CLASS = "cls"
_IMAGE = "image"
_JPEG = ("jpg", "jpeg")
_VIDEO = "video"
_EXTENSIONS = {
    _IMAGE: (*_JPEG, "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"),
    _VIDEO: ("mp4", "m4v", "mov", "mkv", "webm"),
}
"""Of what a folder of class folders holds; videos count where there are no images."""
_SEVERAL = {kind: several for several, kinds in _EXTENSIONS.items() for kind in kinds}
"""The name of the column where files are of several kinds, by kind."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """The files of a folder, as samples."""

    keys: list[str]
    columns: tuple[str, ...]
    files: list[tuple[str, ...]]
    """Paths below the folder, one a column, for each sample."""
    labels: list[int] | None
    classes: tuple[str, ...]


class FolderSource:
    """Random access to loose files.

    In a folder of class folders a sample is one image file anywhere below its class folder,
    with the columns `jpg` (`image` where the files are of several kinds) and `cls`, the
    number of its class in sorted order; where there are no images, one video file, with the
    column `mp4` (`video` where they are of several kinds).  In a folder of plain files those
    that differ in their extension only are one sample, as in a WebDataset shard.  Keys are
    paths below the folder without the extension.
    """

    def __init__(
        self,
        folder: str,
        store: Store,
        *,
        columns: Sequence[str] | None = None,
        max_sample_bytes: int = 1 << 30,
    ) -> None:
        local = store.local_path(folder)
        if local is None:
            raise PipelineError(f"{folder!r} is no local folder; shard it first, then read shards")
        self._root = os.path.abspath(local)
        self._listing = _listed(self._root)
        self._max_sample_bytes = max_sample_bytes
        found = (*self._listing.columns, *((CLASS,) if self._listing.labels is not None else ()))
        unknown = [name for name in columns or () if name not in found]
        if unknown:
            raise PipelineError(f"fields {unknown} are not among {', '.join(found)}; use those")
        self.classes = self._listing.classes
        """Names of the classes, by their number; empty where there are none."""
        self.shards = (folder,)
        self.columns = tuple(columns or found)
        self._of_files = [name for name in self.columns if name in self._listing.columns]
        self._places = [found.index(name) for name in self._of_files]
        types = {CLASS: pa.int64()} if self._listing.labels is not None else {}
        self.schema = pa.schema([(name, types.get(name, pa.binary())) for name in self.columns])
        self.faults: Sequence[DataError] = ()
        self.digest = hashlib.blake2b(
            "\0".join((*found, *self._listing.keys)).encode("utf-8", "surrogateescape"),
            digest_size=16,
        ).hexdigest()

    def __len__(self) -> int:
        return len(self._listing.keys)

    def locate(self, sample_id: int) -> Location:
        self._check([sample_id])
        first = self._listing.files[sample_id][0]
        return Location(os.path.join(self._root, first), 0, self._listing.keys[sample_id])

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        paths = [path for sample in self._check(ids) for path in self._paths(sample)]
        return [ByteRange(path, 0, _size(path)) for path in paths]

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = self._check(ids)
        columns: dict[str, Column] = {name: [] for name in self._of_files}
        for row, sample in enumerate(wanted):
            for name, path in zip(columns, self._paths(sample), strict=True):
                try:
                    columns[name].append(self._content(path))  # type: ignore[union-attr]
                except DataError as error:
                    error.row, error.shard, error.key = row, path, self._listing.keys[sample]
                    raise
        if CLASS in self.columns and self._listing.labels is not None:
            labels = [self._listing.labels[sample] for sample in wanted]
            columns[CLASS] = np.array(labels, np.int64)
        return Samples(
            ids=np.asarray(wanted, np.int64),
            keys=[self._listing.keys[sample] for sample in wanted],
            columns={name: columns[name] for name in self.columns},
        )

    def _check(self, ids: Sequence[int] | Int64Array) -> list[int]:
        wanted: list[int] = np.asarray(ids, np.int64).tolist()
        outside = [sample for sample in wanted if not 0 <= sample < len(self)]
        if outside:
            raise IndexError(f"sample {outside[0]} of {len(self)}")
        return wanted

    def _paths(self, sample: int) -> list[str]:
        """The files of the columns that are read, in their order."""
        files = self._listing.files[sample]
        return [f"{self._root}/{files[place]}" for place in self._places]

    def _content(self, path: str) -> bytes:
        """A whole file, in four system calls: asking for one byte more proves its end."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                size = os.fstat(descriptor).st_size
                if size > self._max_sample_bytes:
                    raise DataError(
                        f"it has {size} bytes, allowed are {self._max_sample_bytes}; raise "
                        "max_sample_bytes"
                    )
                content = os.read(descriptor, size + 1)
                while len(content) < size and (more := os.read(descriptor, size - len(content))):
                    content += more  # above 2 GiB, or of a network
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise NotFoundError(2, "a file of the dataset is gone; open it again", path) from error
        except OSError as error:
            raise StorageError(f"cannot read {path!r}: {error.strerror}") from error
        if len(content) != size:
            raise DataError(f"it changed while it was read: {len(content)} of {size} bytes")
        if not content:
            raise DataError("it is empty")
        return content


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise StorageError(f"cannot find {path!r}: {error.strerror}") from error


# ---- listing -------------------------------------------------------------------------


def _listed(root: str) -> _Listing:
    entries = _scan(root, root)
    folders = [entry.name for entry in entries if entry.is_dir()]
    files = [entry.name for entry in entries if entry.is_file()]
    if folders and not files:
        return _by_class(root, folders)
    if files and not folders:
        return _by_stem(root, files)
    raise DataError(
        f"it holds {len(files)} files and {len(folders)} folders; give a folder of class "
        "folders, or one of plain files",
        shard=root,
    )


def _by_class(root: str, folders: list[str]) -> _Listing:
    found: dict[str, list[tuple[str, int]]] = {several: [] for several in _EXTENSIONS}
    for label, folder in enumerate(folders):
        for path in _walk(root, folder):
            stem, _, extension = path.rpartition(".")
            several = _SEVERAL.get(extension.lower())
            if stem and several is not None:
                found[several].append((path, label))
    for several, files in found.items():
        if files:
            return _Listing(
                [path.rpartition(".")[0] for path, _ in files],
                (_column_of(several, {path.rpartition(".")[2].lower() for path, _ in files}),),
                [(path,) for path, _ in files],
                [label for _, label in files],
                tuple(folders),
            )
    raise DataError(f"no files of the kinds {', '.join(_SEVERAL)} are in it", shard=root)


def _column_of(several: str, kinds: set[str]) -> str:
    kinds = {"jpg" if kind in _JPEG else kind for kind in kinds}
    return kinds.pop() if len(kinds) == 1 else several


def _by_stem(root: str, names: list[str]) -> _Listing:
    samples: dict[str, dict[str, str]] = {}
    for name in names:
        split = split_name(name)
        if split is not None:
            key, field = split
            samples.setdefault(key, {})["jpg" if field in _JPEG else field] = name
    columns = tuple(dict.fromkeys(field for fields in samples.values() for field in fields))
    for key, fields in samples.items():
        missing = [name for name in columns if name not in fields]
        if missing:
            raise DataError(f"there is no {key}.{missing[0]} beside it", shard=root, key=key)
    if not samples:
        raise DataError("its files have no extensions, which say what they are", shard=root)
    rows = [tuple(fields[name] for name in columns) for fields in samples.values()]
    return _Listing(list(samples), columns, rows, None, ())


def _walk(root: str, folder: str) -> Iterator[str]:
    """Files below a class folder, as ImageFolder orders them: those of a folder, sorted,
    before those of the folders in it."""
    entries = _scan(root, os.path.join(root, folder))
    for entry in entries:
        if entry.is_file():
            yield f"{folder}/{entry.name}"
    for entry in entries:
        if entry.is_dir():
            yield from _walk(root, f"{folder}/{entry.name}")


def _scan(root: str, folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted; hidden ones are passed over."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(
                (entry for entry in found if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise StorageError(f"cannot list {folder!r}: {error.strerror}") from error
    links = [entry for entry in entries if entry.is_symlink()]
    for entry in links:
        if not Path(os.path.realpath(entry.path)).is_relative_to(os.path.realpath(root)):
            raise DataError("it is a link that leads out of the dataset", shard=entry.path)
    nowhere = {entry.name for entry in links if not os.path.exists(entry.path)}
    return [entry for entry in entries if entry.name not in nowhere]


def _open(shards: Sequence[str], store: Store, options: OpenOptions) -> Source:
    if len(shards) != 1:
        raise PipelineError(f"{len(shards)} folders were given; open one folder of loose files")
    return FolderSource(
        shards[0], store, columns=options.columns, max_sample_bytes=options.max_sample_bytes
    )


def _is_folder(head: bytes, path: str) -> bool:
    """Whether a folder without shards may be a dataset of loose files."""
    if head or not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return any(not entry.name.startswith(".") for entry in entries)


FORMAT = Format(name="folder", suffixes=(), is_content=_is_folder, open=_open)

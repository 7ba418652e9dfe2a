"""Small datasets of every format, and which of their files is damaged.

Stands under the fuzz tests of the formats.  Invariant: every format of the table has a
target here, those that can be written without anybody's doing.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from fuzz.hostile import hostile_indexes, hostile_json, hostile_tars
from fuzz.mutate import File, files, mutated
from fuzz.reseal import reseal_checksums, reseal_index, reseal_tar, reseal_tfrecord
from hypothesis import strategies as st

from iopipe.readers import DatasetWriter, open_source
from iopipe.readers.checksums import SUFFIX as CHECKSUMS
from iopipe.readers.checksums import fingerprint, rows_of
from iopipe.readers.formats import OpenOptions, WriteOptions, all_formats
from iopipe.readers.sidecar import SUFFIX as INDEX
from iopipe.storage import PosixStore

NUM_SAMPLES = 6
MAX_SAMPLE_BYTES = 1 << 20
UNFUZZED = {"folder": "nothing is parsed but names, which tests/readers covers"}
_INDEXED = ("webdataset", "tfrecord")
_COMPRESSED = {"arrow": ("lz4", "zstd"), "parquet": ("zstd", "snappy")}
_WRITE_MDS = Path(__file__).parents[1] / "readers" / "write_mds.py"

Reseal: TypeAlias = Callable[[bytes], bytes]
Hostile: TypeAlias = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A dataset, and the file of it that is damaged."""

    name: str
    write: Callable[[Path], None]
    """Writes the dataset into this folder."""
    damaged: str
    """Pattern of the file's name; the first one that matches."""
    reseal: Reseal | None = None
    """Makes the checksums of a damaged file right again."""
    hostile: Hostile | None = None
    """Well-formed files that lie."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """OpenOptions."""
    opened: str = "manifest.json"
    """Name of the file that is opened."""
    has_exact_ranges: bool = True
    """Whether `ranges` knows where the samples lie, and does not guess from an index."""
    is_verifiable: bool = True
    """Whether there are checksums of samples."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a target wrote: the files, and what is read from them."""

    target: Target
    files: Mapping[str, bytes]
    damaged: str
    """Name of the file that is damaged."""
    expected: Mapping[str, int]
    """Fingerprint by key."""

    def place(self, folder: Path, content: bytes) -> None:
        """All files, with `content` in place of the damaged one's.

        Sidecars last, since those that are older than their shard are not used.
        """
        for path in folder.iterdir():
            path.unlink()
        for name in sorted(self.files, key=lambda name: name.endswith((INDEX, CHECKSUMS))):
            (folder / name).write_bytes(content if name == self.damaged else self.files[name])

    def damage(self) -> st.SearchStrategy[File]:
        """What the damaged file may hold."""
        content, target = self.files[self.damaged], self.target
        found = mutated(content)
        if target.reseal is not None:
            found |= mutated(content).map(target.reseal)
        if target.hostile is not None:
            found |= target.hostile(content)
        return files(found)


def made(target: Target, folder: Path) -> Dataset:
    target.write(folder)
    store = PosixStore()
    options = OpenOptions(**target.options)
    source = open_source(folder / target.opened, store=store, options=options)
    samples = source.samples(range(len(source)), store)
    store.close()
    expected = dict(zip(samples.keys, map(fingerprint, rows_of(samples)), strict=True))
    assert len(expected) == len(source) >= NUM_SAMPLES
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    (damaged, *_) = (path.name for path in sorted(folder.glob(target.damaged)))
    return Dataset(target=target, files=files, damaged=damaged, expected=expected)


# ---- what is written -----------------------------------------------------------------


def _sample(number: int) -> dict[str, Any]:
    return {
        "__key__": f"key{number}",
        "data": bytes(range(number, 200, number + 1)),
        "txt": f"täxt {number}" * (number + 1),
        "cls": number,
    }


def _typed_sample(number: int) -> dict[str, Any]:
    """What a format with types can hold."""
    return _sample(number) | {
        "score": number / 3,
        "list": [number] * (number + 1),
        "name": ["a", "b"][number % 2],
        "box": np.full((2, 2), number, np.int16),
    }


def _token_sample(number: int) -> dict[str, Any]:
    return {
        "__key__": str(number),
        "tokens": np.arange(number, 9 * number + 5, dtype=np.uint16),
    }


_SAMPLES: dict[str, Callable[[int], dict[str, Any]]] = {
    "tokens": _token_sample,
    "arrow": _typed_sample,
    "parquet": _typed_sample,
}


def _writer(format: str, compression: str | None = None) -> Callable[[Path], None]:
    sample = _SAMPLES.get(format, _sample)

    def write(folder: Path) -> None:
        options = WriteOptions(compression=compression)
        with DatasetWriter(folder, format=format, max_samples=4, options=options) as writer:
            for number in range(NUM_SAMPLES):
                writer.write(sample(number))

    return write


def _write_arrow_stream(folder: Path) -> None:
    """By pyarrow itself, with a dictionary and buffers that are packed."""
    names = pa.array([_typed_sample(number)["name"] for number in range(NUM_SAMPLES)])
    columns = {
        "__key__": [f"key{number}" for number in range(NUM_SAMPLES)],
        "data": [_sample(number)["data"] for number in range(NUM_SAMPLES)],
        "name": names.dictionary_encode(),
        "list": [[number] * number for number in range(NUM_SAMPLES)],
    }
    table = pa.table(columns)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        open(folder / "0.arrow", "wb") as file,
        pa.ipc.new_stream(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table, max_chunksize=4)


def _write_flat(folder: Path) -> None:
    tokens = np.arange(NUM_SAMPLES * 10, dtype="<u2") % 10
    (folder / "flat.bin").write_bytes(tokens.tobytes())


def _write_mds(compression: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in _mds_files(compression).items():
            (folder / name).write_bytes(content)

    return write


@functools.cache
def _mds_files(compression: str) -> dict[str, bytes]:
    """In a process of its own, because of what the real writer's package imports."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(_WRITE_MDS), f"{folder}/out", compression, "plain"]
        subprocess.run(command, check=True, capture_output=True)
        return {path.name: path.read_bytes() for path in Path(folder, "out").iterdir()}


# ---- the targets ---------------------------------------------------------------------

_RESEALS: dict[str, Reseal] = {"webdataset": reseal_tar, "tfrecord": reseal_tfrecord}
_HOSTILE: dict[str, Hostile] = {"webdataset": hostile_tars}


def targets() -> Iterator[Target]:
    for format in all_formats():
        if format.encoder is not None:
            yield from _written(format.name, format.suffixes[0])
    webdataset = _writer("webdataset")
    yield Target(name="manifest", write=webdataset, damaged="manifest.json", hostile=hostile_json)
    yield Target(name="tokens-megatron", write=_writer("tokens"), damaged="*.idx")
    for name, options in {"eos": {"eos_token": 9}, "window": {"window": 10}}.items():
        yield Target(
            name=f"tokens-{name}",
            write=_write_flat,
            damaged="flat.bin",
            opened="flat.bin",
            options=options,
            is_verifiable=False,
        )
    yield Target(
        name="arrow-stream",
        write=_write_arrow_stream,
        damaged="0.arrow",
        opened="0.arrow",
        is_verifiable=False,
    )
    yield from _mds_targets()


def _written(format: str, suffix: str) -> Iterator[Target]:
    """The shards of a format, compressed and not, and the files beside them."""
    for compression in (None, *_COMPRESSED.get(format, ())):
        yield Target(
            name=format if compression is None else f"{format}-{compression}",
            write=_writer(format, compression),
            damaged=f"*{suffix}",
            reseal=_RESEALS.get(format),
            hostile=_HOSTILE.get(format),
        )
    write = _writer(format)
    yield Target(
        name=f"{format}-checksums", write=write, damaged=f"*{CHECKSUMS}", reseal=reseal_checksums
    )
    if format in _INDEXED:
        yield Target(
            name=f"{format}-index",
            write=write,
            damaged=f"*{INDEX}",
            reseal=reseal_index,
            hostile=hostile_indexes,
        )


def _mds_targets() -> Iterator[Target]:
    for compression, suffix in (("none", ".mds"), ("zstd", ".mds.zstd")):
        yield Target(
            name=f"mds-{compression}",
            write=_write_mds(compression),
            damaged=f"*{suffix}",
            opened="index.json",
            has_exact_ranges=False,
            is_verifiable=False,
        )
        yield Target(
            name=f"mds-{compression}-index",
            write=_write_mds(compression),
            damaged="index.json",
            opened="index.json",
            has_exact_ranges=False,
            hostile=hostile_json,
            is_verifiable=False,
        )

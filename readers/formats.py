"""The formats that iopipe knows, in one table.

Stands between the door of the readers and the formats.  Invariant: a format is one module
with a constant `FORMAT`; nothing else in the house asks for a format by name.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

import pyarrow as pa

from iopipe.errors import PipelineError
from iopipe.protocols import ErrorPolicy, Source, Store
from iopipe.readers.encoder import Encoder

if TYPE_CHECKING:
    import pyarrow.compute as pc

_MODULES = {
    "webdataset": "iopipe.readers.webdataset",
    "arrow": "iopipe.readers.arrow",
    "parquet": "iopipe.readers.parquet",
    "tfrecord": "iopipe.readers.tfrecord",
    "mds": "iopipe.readers.mds",
    "tokens": "iopipe.readers.tokens",
    "folder": "iopipe.readers.folder",
}
"""Asked in this order which of them a shard's content belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How a dataset is opened; what a format has no use for is refused by it."""

    columns: tuple[str, ...] | None = None
    """The fields to read; None: all."""
    on_error: ErrorPolicy = "raise"
    """What becomes of samples that are damaged when the source is opened."""
    max_sample_bytes: int = 1 << 30
    """No field and no compressed buffer may become larger than this when it is unpacked.  Of
    parquet: the columns of a row group that are read, together; decoding takes as much again."""
    filter: pc.Expression | None = None
    """parquet: only rows that it holds for are samples."""
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    """tokens: what a flat file holds; Megatron's index says it itself."""
    eos_token: int | None = None
    """tokens: the token that ends a document of a flat file; a sample is a document."""
    window: int | None = None
    """tokens: a sample is so many tokens of a file in a row."""
    stride: int | None = None
    """tokens: from the beginning of a window to that of the next; None: `window`.  With
    `window` - 1 every token but the first is predicted once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How shards are written; what a format has no use for is refused by it."""

    schema: pa.Schema | None = None
    """Types of the columns, for arrow and parquet; None: those of a shard's first sample."""
    compression: str | None = None
    """As the format names it: 'lz4', 'zstd'; None: not compressed."""
    rows_per_group: int = 1024
    """Rows in a record batch (arrow) or a row group (parquet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One shard format."""

    name: str
    suffixes: tuple[str, ...]
    """Of its shards' names; the first one is given to those that are written."""
    is_content: Callable[[bytes, str], bool]
    """(first 512 bytes, path) -> whether the shard is of this format; without bytes `path` is
    a folder that may be a dataset as a whole."""
    open: Callable[[Sequence[str], Store, OpenOptions], Source]
    encoder: Callable[[BinaryIO, WriteOptions], Encoder] | None = None
    """None: the format is only read."""


@functools.cache
def find_format(name: str) -> Format:
    """The format of this name."""
    if name not in _MODULES:
        raise PipelineError(f"no format {name!r}; choose one of {', '.join(_MODULES)}")
    found: Format = importlib.import_module(_MODULES[name]).FORMAT
    return found


def all_formats() -> list[Format]:
    return [find_format(name) for name in _MODULES]

"""What the rooms of the house agree on: Store, Source, Samples, Batch, Events.

Stands before everything in the flow and imports nothing of ours.  Invariant: data in
flight is columnar, and whoever holds a value of these types may read it without asking
where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from iopipe.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Int64Array: TypeAlias = npt.NDArray[np.int64]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
ErrorPolicy: TypeAlias = Literal["raise", "skip", "quarantine"]
Cause: TypeAlias = Literal[
    "storage", "decode", "transform", "collate", "queue", "h2d", "gpu_decode", "loader"
]
"""What a starved step waited for.  'queue': the batch was ready or parked between stages;
'loader': a foreign loader that iopipe cannot look into."""


# ---- storage -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes of `path` from `offset` on; units are bytes, end exclusive."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Fill `buffer` with the bytes of `path` from `offset` on; the caller owns `buffer`."""

    path: str
    offset: int
    buffer: memoryview
    """Writable, contiguous, format 'B'; its length is the number of bytes asked for."""


class Reads(Protocol):
    """Requests under way."""

    def wait(self) -> list[int]:
        """Block until all are done; the bytes read, one number a request, in its order.

        A number below the length asked for means that the file ended there.  The first
        failed request's `StorageError` is raised after the others have ended, so that no
        buffer is still written to.
        """
        ...


class Store(Protocol):
    """Reads byte ranges of named objects into buffers of the caller.

    Thread-safe.  Keeps no hidden cache: what it returns is what the storage holds at the
    time of the call.
    """

    def size(self, path: str) -> int:
        """Bytes in `path`; `NotFoundError` where there is none."""
        ...

    def version(self, path: str) -> str:
        """An opaque word that changes when the content of `path` does (size and mtime, an
        ETag); `NotFoundError` where there is none."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """The paths that match a shell pattern, sorted; empty where none does."""
        ...

    def local_path(self, path: str) -> str | None:
        """Where the operating system finds `path` as a file (to map it, to put an index
        beside it); None where it is no local file."""
        ...

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; the bytes read, fewer only where the file ends."""
        ...

    def view(self, path: str) -> memoryview | None:
        """The whole content of `path` as read-only memory, without a copy; None where this
        store has none to show.  It stays valid for as long as it is held."""
        ...

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        """Start many reads; completion order is free."""
        ...

    def describe(self) -> str:
        """The path that is really active, in a few words ('posix: pread, 8 threads')."""
        ...

    def close(self) -> None:
        """Give back descriptors and threads; idempotent."""
        ...


# ---- samples -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different length in one buffer, laid out as Arrow's LargeListView.

    Row i is `values[offsets[i] : offsets[i] + lengths[i]]`: a view, never a copy.  Rows
    may lie in any order, with gaps, so that several columns can share the one buffer that
    a read filled.  Source: Arrow columnar format, ListView layout.
    """

    values: npt.NDArray[Any]
    """One-dimensional, any dtype."""
    offsets: Int64Array
    lengths: Int64Array

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, row: int) -> memoryview:
        start = int(self.offsets[row])
        return self.values[start : start + int(self.lengths[row])].data

    def __iter__(self) -> Iterator[memoryview]:
        return (self[row] for row in range(len(self)))


class NumberKeys(Sequence[str]):
    """The keys of samples that have none of their own: their numbers.  Strings are made when
    somebody looks, which for millions of rows a second nobody should have to pay for."""

    __slots__ = ("_ids",)

    def __init__(self, ids: Int64Array) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> NumberKeys: ...

    def __getitem__(self, place: int | slice) -> str | NumberKeys:
        found = self._ids[place]
        return NumberKeys(found) if isinstance(place, slice) else str(found)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._ids.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


def joined_keys(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """The keys of all parts, in their order."""
    numbers = [part._ids for part in parts if isinstance(part, NumberKeys)]
    if len(numbers) == len(parts):
        return NumberKeys(np.concatenate([np.empty(0, np.int64), *numbers]))
    return [key for part in parts for key in part]


Column: TypeAlias = npt.NDArray[Any] | Ragged | list[Any]
"""An array whose first dimension is the row, a ragged column, or a list with one Python
object a row (views into mapped shards, text, parsed JSON)."""


Allocate: TypeAlias = Callable[[str, tuple[int, ...], np.dtype[Any]], npt.NDArray[Any]]
"""(column, shape, dtype) -> an array to fill."""


@dataclass(slots=True, kw_only=True)
class Samples:
    """A few samples, column by column; the unit that moves along the edges."""

    ids: Int64Array
    """[n]: positions in the source; with seed and epoch they key every random draw."""
    keys: Sequence[str]
    """[n]: the names that the dataset gives its samples."""
    columns: dict[str, Column]
    """Each with n rows."""
    seed: int = 0
    epoch: int = 0
    allocate: Allocate | None = None
    """Room in the slot of the batch that these samples will be part of, where there is one."""
    valid: BoolArray | None = None
    """[n]: False for the samples that only fill up the last batch; None where none may."""
    history: tuple[tuple[str, Cause, int, int], ...] = ()
    """(stage, cause, start_ns, end_ns) of what another process did to them."""

    def __len__(self) -> int:
        return len(self.ids)

    def empty(self, name: str, row: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array [n, *row] to fill for a column of the result; what is filled in the slot
        of its batch is not copied again."""
        shape, kind = (len(self), *row), np.dtype(dtype)
        return self.allocate(name, shape, kind) if self.allocate else np.empty(shape, kind)

    def row(self, index: int) -> dict[str, Any]:
        """One sample as a user sees it: `__key__` and one field a column, bytes copied."""
        fields = {name: _field(column, index) for name, column in self.columns.items()}
        return {"__key__": self.keys[index], **fields}

    def take(self, rows: Sequence[int]) -> Samples:
        """These rows only, in this order; columns of bytes stay views."""
        return Samples(
            ids=self.ids[list(rows)],
            keys=[self.keys[row] for row in rows],
            columns={name: _take(column, rows) for name, column in self.columns.items()},
            seed=self.seed,
            epoch=self.epoch,
            allocate=self.allocate,
            valid=None if self.valid is None else self.valid[list(rows)],
        )

    def made(self, columns: dict[str, Column], *, keys: Sequence[str] | None = None) -> Samples:
        """The same samples with other columns, as a stage hands them on; they are not written
        into the slot again."""
        return Samples(
            ids=self.ids,
            keys=self.keys if keys is None else keys,
            columns=columns,
            seed=self.seed,
            epoch=self.epoch,
            valid=self.valid,
        )


def _field(column: Column, row: int) -> Any:
    value = column[row]
    if isinstance(value, memoryview):
        return bytes(value)
    return value.item() if isinstance(value, np.generic) else value


def _take(column: Column, rows: Sequence[int]) -> Column:
    index = list(rows)
    if isinstance(column, Ragged):
        return Ragged(column.values, column.offsets[index], column.lengths[index])
    if isinstance(column, list):
        return [column[row] for row in index]
    return column[index]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a sample lives, for messages and reports."""

    shard: str
    offset: int
    key: str


class Source(Protocol):
    """A sharded dataset with random access.  Knows its shards, not its storage.

    Immutable and thread-safe once opened.
    """

    @property
    def shards(self) -> tuple[str, ...]:
        """The paths or URLs of the shards, in order."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the fields that every sample has."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Type of each column as Arrow names it, known before anything is read."""
        ...

    @property
    def digest(self) -> str:
        """Hex digest of what the ids mean: shard names, sample counts, keys."""
        ...

    @property
    def faults(self) -> Sequence[DataError]:
        """Samples left out when the source was opened with a policy other than raise."""
        ...

    def __len__(self) -> int: ...

    def locate(self, sample_id: int) -> Location: ...

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """The byte ranges that `samples` would read for these ids together."""
        ...

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        """Read these samples; a `DataError` names `row`, shard, offset and key."""
        ...


class Filling(Protocol):
    """A source that can read straight into the slot of a batch."""

    @property
    def fills(self) -> bool: ...

    def fill(self, wanted: Samples, store: Store) -> Samples:
        """What `samples` gives for `wanted.ids`, in memory that `wanted.empty` gave."""
        ...


# ---- batches -------------------------------------------------------------------------

Event: TypeAlias = Any
"""A point on a stream's time line; opaque outside the `Events` that made it."""


class Events(Protocol):
    """The clock of the stream that the training step runs on.

    Nothing here waits for the device: `record` and `wait` enqueue, `done` asks.
    """

    @property
    def stream(self) -> str:
        """What the clock belongs to: 'cuda:0', or 'host thread' where compute is there."""
        ...

    def record(self) -> Event:
        """An event at this point of the current stream of the calling thread."""
        ...

    def wait(self, event: Event) -> None:
        """Hold back what the calling thread enqueues from here on until `event`."""
        ...

    def done(self, event: Event) -> bool: ...

    def synchronize(self, event: Event) -> None:
        """Block the calling thread until `event`; for the threads of a pipeline, never for
        the one that trains."""
        ...

    def elapsed_ns(self, start: Event, end: Event) -> int:
        """Nanoseconds from `start` to `end`; both must be done."""
        ...

    def release(self, event: Event) -> None:
        """Nobody needs this event any more; it may be recorded again."""
        ...


def _nothing() -> None:
    """What a host slot has to learn at hand-off."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """What a run hands over: `columns` goes to the user, the rest is for the engine."""

    columns: dict[str, Any]
    """Tensors [b, ...], lists [b] of what is no number, and `__key__`, a sequence of str."""
    num_samples: int
    ids: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """[b]: positions in the source, less those that only fill up the batch."""
    on_device: Mapping[str, Any] = field(default_factory=dict)
    """Columns that a stage made on the device, until the transfer puts them beside the others."""
    payload: Any = None
    """The flat buffer that holds all tensors of `columns`, while they still lie there."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """Where in `payload` each tensor lies."""
    ready: Event | None = None
    """Set by a transfer: the tensors may be read after this event."""
    handed_over: Callable[[], None] = _nothing
    """Called in the consumer's thread at hand-off: a device slot learns here which stream
    will use it."""

"""Token files: Megatron's .bin with .idx, and flat ones as nanoGPT writes them.

A reader: bytes of a file become a ragged column of tokens.  Invariant: tokens are views of
the file's bytes, as they were read or mapped; nothing is converted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iopipe.errors import DataError, NotFoundError, PipelineError
from iopipe.protocols import (
    ByteRange,
    Column,
    Int64Array,
    Location,
    NumberKeys,
    Ragged,
    Samples,
    Store,
)
from iopipe.readers.checksums import fingerprint
from iopipe.readers.damage import open_shards
from iopipe.readers.encoder import Finished
from iopipe.readers.formats import Format, OpenOptions, WriteOptions
from iopipe.readers.gather import fill_rows, gather, plan_gathering
from iopipe.readers.megatron import has_code, pack_index, read_index
from iopipe.readers.rows import Rows
from iopipe.readers.spans import RowSpans

COLUMN = "tokens"
_PIECE_BYTES = 1 << 24


class TokenSource:
    """Random access to the documents, or windows, of token files.

    The one column `tokens` is ragged, or with `window` an array [n, window]; a sample's key is
    its number.  Beside `name.bin` a file `name.idx` makes it Megatron's; else it is flat, and
    `eos_token` or `window` of the options says what a sample is.  Windows do not look for
    documents, and what is left at the end of a file is left out.
    """

    def __init__(self, shards: Sequence[str], store: Store, options: OpenOptions) -> None:
        if options.columns not in (None, (COLUMN,)):
            raise PipelineError(f"token files have the one column {COLUMN!r}")
        self.shards = tuple(shards)
        opened, self.faults = open_shards(
            self.shards, lambda shard: _documents(shard, store, options), options.on_error
        )
        dtypes = {documents[0] for documents in opened if documents is not None}
        if len(dtypes) > 1:
            raise DataError(f"its shards hold tokens of several types: {sorted(map(str, dtypes))}")
        self.dtype: np.dtype[Any] = dtypes.pop() if dtypes else np.dtype(options.token_dtype)
        self.columns = (COLUMN,)
        self.window = options.window
        """Tokens of every sample; None: samples are documents."""
        self._follow_each_other = options.stride in (None, options.window)
        of_type = pa.from_numpy_dtype(self.dtype)
        kind = pa.list_(of_type) if self.window is None else pa.list_(of_type, self.window)
        self.schema = pa.schema([(COLUMN, kind)])
        none = np.empty(0, np.int64)
        found = [documents or (self.dtype, none, none) for documents in opened]
        self._rows = Rows([len(offsets) for _, offsets, _ in found])
        self._offsets = np.concatenate([none, *(offsets for _, offsets, _ in found)])
        self.lengths: Int64Array = np.concatenate([none, *(lengths for _, _, lengths in found)])
        """[n]: tokens of each sample, for packing and bucketing."""
        self.digest = self._identity()

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, sample_id: int) -> Location:
        shards, _ = self._rows.place([sample_id])
        offset = int(self._offsets[sample_id]) * self.dtype.itemsize
        return Location(self.shards[int(shards[0])], offset, str(sample_id))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        shards, offsets, lengths = self._places(np.asarray(ids, np.int64))
        return plan_gathering(shards, offsets, lengths).ranges(self.shards)

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        if self.window is not None:
            return self.fill(Samples(ids=wanted, keys=[], columns={}), store)
        shards, offsets, lengths = self._places(wanted)
        (column,) = gather(store, self.shards, shards, offsets, lengths)
        keys = [str(sample) for sample in wanted.tolist()]
        return Samples(ids=wanted, keys=keys, columns={COLUMN: self._typed(column)})

    @property
    def fills(self) -> bool:
        """Whether `fill` can be called."""
        return self.window is not None

    def fill(self, wanted: Samples, store: Store) -> Samples:
        """The windows `wanted`, read into the memory that `wanted` has for them."""
        (spans,) = self.row_spans(wanted.ids)
        tokens = wanted.empty(COLUMN, spans.row_shape, self.dtype)
        if len(tokens):
            fill_rows(store, self.shards, spans, tokens)
        return wanted.made({COLUMN: tokens}, keys=self.keys(wanted.ids))

    def keys(self, ids: Int64Array) -> Sequence[str]:
        return NumberKeys(ids)

    def row_spans(
        self, ids: Sequence[int] | Int64Array, store: Store | None = None
    ) -> list[RowSpans]:
        """Where the windows lie; `PipelineError` where samples are documents."""
        if self.window is None:
            raise PipelineError(
                "documents differ in length and make no array: give window=, or pack them"
            )
        wanted = np.asarray(ids, np.int64)
        if self._follow_each_other:
            shards, _, firsts, counts = self._rows.stretches(wanted)
        else:
            shards, _ = self._rows.place(wanted)
            firsts, counts = np.arange(len(wanted)), np.ones(len(wanted), np.int64)
        return [
            RowSpans(
                name=COLUMN,
                dtype=self.dtype,
                row_shape=(self.window,),
                shards=shards,
                offsets=self._offsets[wanted[firsts]] * self.dtype.itemsize,
                firsts=firsts,
                counts=counts,
            )
        ]

    @property
    def pool_tokens(self) -> list[int]:
        """Of each shard, up to the end of its last sample."""
        ends = self._offsets + self.lengths
        bounds = [self._rows.start(shard) for shard in range(len(self.shards))]
        parts = np.split(ends, bounds[1:])
        return [int(part.max(initial=0)) for part in parts]

    def pool_starts(self, ids: Int64Array) -> Int64Array:
        """Where samples begin, in tokens, where the shards follow each other so cut."""
        shards, _ = self._rows.place(ids)
        sizes = np.array(self.pool_tokens, np.int64)
        starts: Int64Array = self._offsets[ids] + (np.cumsum(sizes) - sizes)[shards]
        return starts

    def _places(self, ids: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        shards, _ = self._rows.place(ids)
        size = self.dtype.itemsize
        return shards, self._offsets[ids, None] * size, self.lengths[ids, None] * size

    def _typed(self, column: Column) -> Column:
        """Bytes as tokens: whatever is read starts and ends at whole tokens."""
        if isinstance(column, Ragged):
            size = self.dtype.itemsize
            # A shard that is shown as a whole may end with a part of a token.
            whole = len(column.values) // size * size
            values = column.values[:whole].view(self.dtype)
            return Ragged(values, column.offsets // size, column.lengths // size)
        return [np.frombuffer(value, self.dtype).data for value in column]

    def _identity(self) -> str:
        digest = hashlib.blake2b(str(self.dtype).encode(), digest_size=16)
        for shard in self.shards:
            digest.update(f"{shard.rsplit('/', 1)[-1]}\0".encode())
        digest.update(self.lengths.tobytes())
        return digest.hexdigest()


def _documents(
    shard: str, store: Store, options: OpenOptions
) -> tuple[np.dtype[Any], Int64Array, Int64Array]:
    """Type, offsets and lengths, in tokens, of the samples of a file."""
    index = f"{shard.removesuffix('.bin')}.idx"
    num_bytes = store.size(shard)
    try:
        store.size(index)
    except NotFoundError:
        return _flat(shard, store, options, num_bytes)
    dtype, offsets, lengths = read_index(store, index, num_bytes)
    if options.window is None:
        return dtype, offsets, lengths
    return dtype, *_windows(num_bytes // dtype.itemsize, options.window, options.stride)


def _flat(
    shard: str, store: Store, options: OpenOptions, num_bytes: int
) -> tuple[np.dtype[Any], Int64Array, Int64Array]:
    dtype: np.dtype[Any] = np.dtype(options.token_dtype).newbyteorder("<")
    if num_bytes % dtype.itemsize:
        raise DataError(f"its {num_bytes} bytes are no whole number of {dtype} tokens", shard=shard)
    num_tokens = num_bytes // dtype.itemsize
    if (options.eos_token is None) == (options.window is None):
        raise PipelineError(
            f"{shard!r} is a flat token file: give OpenOptions(eos_token=...) to read documents, "
            "or window=... to read so many tokens a sample"
        )
    if options.window is not None:
        return dtype, *_windows(num_tokens, options.window, options.stride)
    if not 0 <= int(options.eos_token or 0) <= np.iinfo(dtype).max:
        raise PipelineError(f"eos_token {options.eos_token} is no {dtype}: see token_dtype")
    ends = _ends(shard, store, dtype, int(options.eos_token or 0))
    if not len(ends) or ends[-1] < num_tokens:
        ends = np.append(ends, num_tokens) if num_tokens else ends
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    return dtype, starts, ends - starts


def _windows(num_tokens: int, window: int, stride: int | None) -> tuple[Int64Array, Int64Array]:
    """Offsets and lengths, in tokens, of the windows that a file holds wholly."""
    step = window if stride is None else stride
    if window < 1 or step < 1:
        raise PipelineError(f"window is {window} and stride {step}; give 1 token or more")
    starts = np.arange(0, num_tokens - window + 1, step, dtype=np.int64)
    return starts, np.full(len(starts), window, np.int64)


def _ends(shard: str, store: Store, dtype: np.dtype[Any], eos_token: int) -> Int64Array:
    """Where documents end: behind each `eos_token`.  Reads the whole file once."""
    found = [np.empty(0, np.int64)]
    buffer = memoryview(bytearray(_PIECE_BYTES))
    offset = 0
    while num_read := store.read_into(shard, offset, buffer):
        tokens = np.frombuffer(buffer[: num_read - num_read % dtype.itemsize], dtype)
        found.append(np.flatnonzero(tokens == eos_token) + offset // dtype.itemsize + 1)
        offset += num_read
    return np.concatenate(found)


# ---- writing -------------------------------------------------------------------------


class TokensEncoder:
    """An `Encoder` for Megatron's files: the tokens, and the index as a file beside them.

    A sample's field `tokens` is a one-dimensional array of a type that Megatron knows, the
    same for all samples of a shard; other fields are refused.
    """

    def __init__(self, sink: BinaryIO, options: WriteOptions) -> None:
        if options.compression is not None or options.schema is not None:
            raise PipelineError("token files have neither compression nor a schema; leave them out")
        self._sink = sink
        self._dtype: np.dtype[Any] | None = None
        self._lengths: list[int] = []
        self._checksums: list[int] = []
        self.num_bytes = 0

    def write(self, sample: Mapping[str, Any]) -> None:
        tokens = self._tokens(sample)
        self._sink.write(tokens.data)
        self.num_bytes += tokens.nbytes
        self._lengths.append(len(tokens))
        self._checksums.append(fingerprint({COLUMN: tokens.data}))

    def finish(self) -> Finished:
        index = pack_index(self._dtype or np.uint16, self._lengths)
        return Finished(
            columns=(COLUMN,),
            checksums=self._checksums,
            stores_keys=False,
            siblings={".idx": index},
        )

    def _tokens(self, sample: Mapping[str, Any]) -> npt.NDArray[Any]:
        key = str(sample["__key__"])
        others = sorted(sample.keys() - {"__key__", COLUMN})
        if others or COLUMN not in sample:
            raise DataError(
                f"a token file holds {COLUMN} only, the sample has {sorted(sample)}", key=key
            )
        value = sample[COLUMN]
        tokens: npt.NDArray[Any] = np.ascontiguousarray(value)
        if tokens.ndim != 1 or tokens.dtype == object or not has_code(tokens.dtype):
            raise DataError(
                f"its tokens are {tokens.dtype} {list(tokens.shape)}; give one dimension of "
                "uint16, int32 or another type that Megatron's index knows",
                key=key,
            )
        if self._dtype not in (None, tokens.dtype):
            raise DataError(
                f"its tokens are {tokens.dtype}, those before it {self._dtype}", key=key
            )
        self._dtype = tokens.dtype
        return tokens


FORMAT = Format(
    name="tokens",
    suffixes=(".bin",),
    is_content=lambda head, path: bool(head) and path.endswith(".bin"),
    open=TokenSource,
    encoder=TokensEncoder,
)

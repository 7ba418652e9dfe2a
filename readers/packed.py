"""Documents of a source, packed into sequences of one length.

Stands on another reader.  Invariant: a sequence's tokens are those of the pieces that the
packing gave it; what is no token of a document says so in every column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.packing import Groups, Pieces, unpacked_id
from iopipe.protocols import (
    ByteRange,
    Int64Array,
    Location,
    Ragged,
    Samples,
    Source,
    Store,
)

IGNORED = -100
"""The label where none is to be predicted: what torch's cross_entropy leaves out."""
COLUMNS = ("tokens", "labels", "position_ids", "document_ids")


class PackedSource:
    """Sequences by their packed number (`iopipe.packing.packed_id`).

    - tokens int64 [n, s]: pieces of documents one after the other, then `pad_token`.
    - labels int64 [n, s]: the next token of the same document; IGNORED at a document's end
      and where there is no token.
    - position_ids int32 [n, s]: from 0 on in each piece; 0 where there is no token.
    - document_ids int32 [n, s]: which piece of the sequence, from 0 on; -1 where none is.

    A piece that begins within a document has its positions counted from the piece on.
    """

    def __init__(
        self, source: Source, groups: Groups, *, column: str = "tokens", pad_token: int = 0
    ) -> None:
        if column not in source.columns:
            raise PipelineError(
                f"column {column!r} is not among {', '.join(source.columns)}; name the one with "
                "the tokens"
            )
        self._source = source
        self._groups = groups
        self._column = column
        self._pad_token = pad_token
        self.shards = source.shards
        self.columns = COLUMNS
        self.faults = source.faults
        self.digest = source.digest
        size = groups.packing.sequence_length
        self.schema = pa.schema(
            [
                (name, pa.list_(pa.int64() if name in ("tokens", "labels") else pa.int32(), size))
                for name in COLUMNS
            ]
        )

    def __len__(self) -> int:
        """Documents: how many sequences they make is known once they are packed."""
        return len(self._source)

    def locate(self, sample_id: int) -> Location:
        """The first document of a sequence."""
        ids, pieces = self._packed(sample_id)
        return self._source.locate(int(ids[pieces.document[0]]))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        documents = [ids[pieces.document] for ids, pieces in map(self._packed, ids)]
        return self._source.ranges(np.unique(np.concatenate([np.empty(0, np.int64), *documents])))

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        packed = [self._packed(number) for number in wanted.tolist()]
        documents = [ids[pieces.document] for ids, pieces in packed]
        needed = np.unique(np.concatenate([np.empty(0, np.int64), *documents]))
        found = self._documents(needed, documents, store)
        columns = self._empty(len(wanted))
        for row, (mine, (_, pieces)) in enumerate(zip(documents, packed, strict=True)):
            places = np.searchsorted(needed, mine)
            self._fill(columns, row, pieces, [found[place] for place in places.tolist()])
        keys = ["{}-{}-{}".format(*unpacked_id(number)) for number in wanted.tolist()]
        return Samples(ids=wanted, keys=keys, columns=dict(columns))

    def _packed(self, number: int) -> tuple[Int64Array, Pieces]:
        """(documents of its group, its own pieces)."""
        epoch, group, index = unpacked_id(int(number))
        ids, pieces = self._groups.group(epoch, group)
        here = pieces.of(index)
        own = Pieces(
            document=pieces.document[here],
            start=pieces.start[here],
            length=pieces.length[here],
            sequence=pieces.sequence[here],
            column=pieces.column[here],
            num_sequences=1,
        )
        return ids, own

    def _documents(
        self, needed: Int64Array, documents: Sequence[Int64Array], store: Store
    ) -> list[npt.NDArray[Any]]:
        """The tokens of each document; an error names the sequence that has to do without."""
        try:
            column = self._source.samples(needed, store).columns[self._column]
        except DataError as error:
            if error.row is not None:
                bad = needed[error.row]
                error.add_note(f"document {bad}")
                error.row = next(row for row, mine in enumerate(documents) if bad in mine)
            raise
        if isinstance(column, Ragged):
            return [
                column.values[offset : offset + length]
                for offset, length in zip(
                    column.offsets.tolist(), column.lengths.tolist(), strict=True
                )
            ]
        return [np.asarray(value) for value in column]

    def _empty(self, num_rows: int) -> dict[str, npt.NDArray[Any]]:
        shape = num_rows, self._groups.packing.sequence_length
        return {
            "tokens": np.full(shape, self._pad_token, np.int64),
            "labels": np.full(shape, IGNORED, np.int64),
            "position_ids": np.zeros(shape, np.int32),
            "document_ids": np.full(shape, -1, np.int32),
        }

    def _fill(
        self,
        columns: dict[str, npt.NDArray[Any]],
        row: int,
        pieces: Pieces,
        documents: Sequence[npt.NDArray[Any]],
    ) -> None:
        bounds = zip(
            pieces.start.tolist(), pieces.length.tolist(), pieces.column.tolist(), strict=True
        )
        for number, (start, length, place) in enumerate(bounds):
            tokens = documents[number]
            here = slice(place, place + length)
            columns["tokens"][row, here] = tokens[start : start + length]
            labels = tokens[start + 1 : start + length + 1]
            columns["labels"][row, place : place + len(labels)] = labels
            columns["position_ids"][row, here] = np.arange(length)
            columns["document_ids"][row, here] = number

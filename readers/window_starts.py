"""Where windows begin, for a device that has their tokens.

A source over token files.  Invariant: sample i stands for the tokens of the token source's
sample i, so that an epoch, a state and a ledger mean the same whichever of the two is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from iopipe.protocols import ByteRange, Int64Array, Location, NumberKeys, Samples, Store
from iopipe.readers.tokens import TokenSource

START = "start"


class WindowStarts:
    """The one column `start`, int64 [n]: a window's first token in all shards, one after the
    other, each up to the end of its last window."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self.shards = source.shards
        self.columns = (START,)
        self.schema = pa.schema([(START, pa.int64())])
        self.faults = source.faults
        self.digest = source.digest
        self.fills = True

    def __len__(self) -> int:
        return len(self._source)

    def locate(self, sample_id: int) -> Location:
        return self._source.locate(sample_id)

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """Nothing is read."""
        return []

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        return self.fill(Samples(ids=np.asarray(ids, np.int64), keys=[], columns={}), store)

    def fill(self, wanted: Samples, store: Store) -> Samples:
        starts = wanted.empty(START, (), np.int64)
        starts[...] = self._source.pool_starts(wanted.ids)
        return wanted.made({START: starts}, keys=NumberKeys(wanted.ids))

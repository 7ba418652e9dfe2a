"""Regions decoded by the CPU for a kernel to finish: not resized, straight into upload memory.

Stands beside the decoders on a GPU.  Invariant: what is written is what a full decode has
there, bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import numpy.typing as npt

from iopipe.errors import DataError
from iopipe.loaders.decode.cpu import region_of
from iopipe.loaders.decode.native import cut_regions, why_not
from iopipe.loaders.decode.on_device import Layout
from iopipe.loaders.decode.wanted import Wanted


class CpuLane:
    """`num_threads` threads, which leave the interpreter lock alone while they decode."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="iopipe-cpu-lane")

    def cut(self, wanted: Wanted, layout: Layout, staged: npt.NDArray[np.uint8]) -> float:
        """Decode the regions of `layout.cut` into `staged`, which begins where those do in the
        packed buffer; the seconds that all threads together worked, divided among them.

        A `DataError` names the first damaged row.
        """
        parts = [layout.cut[first :: self.num_threads] for first in range(self.num_threads)]
        cuts = [
            self._pool.submit(_cut, wanted, layout, part, staged) for part in parts if len(part)
        ]
        wait(cuts)
        errors = [error for cut in cuts if (error := cut.exception()) is not None]
        if errors:
            raise min(errors, key=_row)
        return sum(cut.result() for cut in cuts) / self.num_threads

    def close(self) -> None:
        self._pool.shutdown()


def _row(error: BaseException) -> int:
    """Of damage; whatever else went wrong comes first."""
    return error.row or 0 if isinstance(error, DataError) else -1


def _cut(
    wanted: Wanted, layout: Layout, rows: Sequence[int], staged: npt.NDArray[np.uint8]
) -> float:
    start = time.perf_counter()
    targets = {row: layout.view(row, staged, first=layout.begin_of_cut) for row in rows}
    plain = [row for row in rows if wanted.images[row].is_plain and why_not() is None]
    try:
        cut_regions(
            [wanted.images[row].content for row in plain],
            wanted.boxes[plain],
            [targets[row] for row in plain],
        )
    except DataError as error:
        error.row = plain[error.row or 0]
        raise
    for row in rows:
        if row not in plain:
            targets[row][...] = region_of(wanted, row)
    return time.perf_counter() - start

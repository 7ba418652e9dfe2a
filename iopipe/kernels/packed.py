"""Bit-packed integers and the runs that Parquet mixes them with, as kernels read them.

Stands between a reader that has a page's bytes and `columns`.  Invariant: a run table made
here points only at bytes that the page has; kernels trust it.

Source: Apache Parquet format, Encodings.md, "Run Length Encoding / Bit-Packing Hybrid": values
are packed from the least significant bit of the first byte on; a run is a varint header h,
then (h & 1) h >> 1 groups of eight packed values, or (else) one value of ceil(width / 8)
bytes that stands h >> 1 times.  Arrow's validity bitmaps are the same packing at width 1,
its integer index arrays at width 8, 16 or 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iopipe.errors import DataError, PipelineError

_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Unsigned integers of `bit_width` bits in device memory."""

    data: torch.Tensor
    """uint8 [bytes], contiguous, from any byte of its storage on."""
    bit_width: int
    """0 to 32; 0 is for runs of a column with one value."""
    num_values: int
    """At most this many are there; nothing is read beyond them."""
    first: int = 0
    """The value to begin with; an Arrow slice's offset, of values or of validity bits.
    Only without runs."""
    runs: torch.Tensor | None = None
    """int64 [2, runs] from `parse_runs`, on the device of `data`; None: packed throughout."""

    def __post_init__(self) -> None:
        if self.data.dtype != torch.uint8 or self.data.ndim != 1 or not self.data.is_contiguous():
            raise PipelineError(
                f"packed data is {self.data.dtype} {list(self.data.shape)}; "
                "give a contiguous vector of uint8"
            )
        if not (0 if self.runs is not None else 1) <= self.bit_width <= 32:
            raise PipelineError(f"bit_width is {self.bit_width}; give 1 to 32, or 0 with runs")
        if self.num_values < 0 or self.first < 0 or (self.first and self.runs is not None):
            raise PipelineError(
                f"first is {self.first} and num_values {self.num_values}; "
                "give 0 or more, and no first with runs"
            )
        if self.runs is None:
            needed = ((self.first + self.num_values) * self.bit_width + 7) // 8
            if self.data.numel() < needed:
                raise DataError(
                    f"{self.num_values} values of {self.bit_width} bits from value {self.first} "
                    f"on need {needed} bytes; there are {self.data.numel()}"
                )
        elif self.runs.dtype != torch.int64 or not _is_table(self.runs.shape):
            raise PipelineError(
                f"runs are {self.runs.dtype} {list(self.runs.shape)}; give what parse_runs made"
            )
        elif self.runs.device != self.data.device or not self.runs.is_contiguous():
            raise PipelineError("runs are not contiguous on the device of data; make them so")


def _is_table(shape: Sequence[int]) -> bool:
    return len(shape) == 2 and shape[0] == 2 and shape[1] >= 1


def parse_runs(
    page: bytes | memoryview | np.ndarray[Any, Any], *, bit_width: int, num_values: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The runs of a hybrid that begins at the page's first byte: int64 [2, runs + 1].

    Row 0 is the number of each run's first value, row 1 the bit at which its packed values
    begin, or ~value for a repeated one; the last column ends the last run.  Stops when
    `num_values` values or the page are at their end: a page of dictionary codes does not say
    how many are not null, so give the number of its rows.  Raises DataError for a run that
    leaves the page.

    Cost: a Python step for each repeated run and for each stretch of packed runs of equal
    length.  Writers cut packed values into runs of equal length (Arrow: 504 values), so a
    page of those is one stretch; a page that alternates costs 1 to 5 us a run.
    """
    if not 0 <= bit_width <= 32 or num_values < 0:
        raise PipelineError(
            f"bit_width is {bit_width}, num_values {num_values}; give 0 to 32, 0 or more"
        )
    data = np.frombuffer(page, _UINT8)
    starts: list[np.ndarray[Any, Any]] = []
    places: list[np.ndarray[Any, Any]] = []
    position, value = 0, 0
    while value < num_values and position < len(data):
        header, payload = _varint(data, position)
        if header & 1:
            count, num_bytes = header >> 1 << 3, (header >> 1) * bit_width
            # The last run may name more groups than there are values for.
            wanted = (min(count, num_values - value) * bit_width + 7) // 8
            _check_inside(data, payload, wanted, position)
            num_runs = _stretch(data, position, payload - position + num_bytes)
            runs = np.arange(num_runs, dtype=np.int64)
            starts.append(value + runs * count)
            places.append((payload + runs * (payload - position + num_bytes)) * 8)
        else:
            count, num_bytes, num_runs = header >> 1, (bit_width + 7) // 8, 1
            _check_inside(data, payload, num_bytes, position)
            repeated = int.from_bytes(data[payload : payload + num_bytes].tobytes(), "little")
            if repeated >> bit_width:
                raise DataError(f"value {repeated} has more than {bit_width} bits", offset=position)
            starts.append(np.array([value]))
            places.append(np.array([~repeated]))
        if count == 0:
            raise DataError("a run of no values; the page is damaged", offset=position)
        position += (payload - position + num_bytes) * num_runs
        value += count * num_runs
    starts.append(np.array([min(value, num_values)]))
    places.append(np.array([~0]))
    return np.stack([np.concatenate(starts), np.concatenate(places)]).astype(np.int64)


def _varint(data: np.ndarray[Any, Any], position: int) -> tuple[int, int]:
    """The unsigned LEB128 number at `position`, of at most 32 bits, and where it ends."""
    number = shift = 0
    for end in range(position, min(position + 5, len(data))):
        byte = int(data[end])
        number |= (byte & 127) << shift
        if byte < 128:
            return number, end + 1
        shift += 7
    raise DataError("the header of a run does not end; the page is damaged", offset=position)


def _check_inside(data: np.ndarray[Any, Any], payload: int, num_bytes: int, position: int) -> None:
    if payload + num_bytes > len(data):
        raise DataError(
            f"a run of {num_bytes} bytes leaves the page of {len(data)} bytes", offset=position
        )


def _stretch(data: np.ndarray[Any, Any], position: int, stride: int) -> int:
    """How many whole runs follow each other, this one included, that have its header and so
    its length: if a run of `stride` bytes is followed by the same header, the next one is
    again `stride` bytes on."""
    if data[position] >= 128:
        return 1
    heads = data[position : len(data) - stride + 1 : stride]
    seen, size = 1, 16
    while seen < len(heads):
        same = heads[seen : seen + size] == heads[0]
        if not same.all():
            return seen + int(same.argmin())
        seen, size = seen + len(same), size * 4
    return max(1, seen)

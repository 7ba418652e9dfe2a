"""Arrays made from their buffers are those that `pa.array` makes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from iopipe.readers.plain_arrays import int64_array, string_array


@pytest.mark.parametrize("values", [[], [""], ["a", "", "größe/0"], ["k" * 300] * 40])
def test_strings(values: list[str]) -> None:
    made = string_array(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string()))


def test_whole_numbers_of_a_column_that_is_not_contiguous() -> None:
    table = np.arange(24, dtype=np.int64).reshape(4, 3, 2) - 7
    made = int64_array(table[:, 1, 1])
    made.validate(full=True)
    assert made.equals(pa.array(table[:, 1, 1]))


def test_neither_imports_pandas() -> None:
    code = (
        "import sys, numpy, iopipe.readers.plain_arrays as p\n"
        "p.string_array(['a']); p.int64_array(numpy.zeros(2, numpy.int64))\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

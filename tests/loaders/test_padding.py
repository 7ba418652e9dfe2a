"""What rows of different length are filled up with."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.source import numbers

from iopipe.errors import PipelineError
from iopipe.loaders.collate import pack
from iopipe.loaders.padding import pad_columns
from iopipe.protocols import Samples


def _padded(dtype: str, value: float) -> np.ndarray:
    rows = [np.ones(length, dtype) for length in (1, 3)]
    samples = Samples(ids=np.arange(2), keys=["a", "b"], columns={"x": rows})
    packed = pack([pad_columns({"x": value})(samples)])
    (made,) = packed.pieces["x"]
    assert made[0, 0] == 1 and made[1].tolist() == [1, 1, 1]
    assert packed.pieces["x_lengths"][0].tolist() == [1, 3]
    return made[0, 1:]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u2", 65535), ("i8", -100), ("i4", 3.0), ("f4", 0.1), ("f2", -1), ("?", 0), ("f4", np.nan)],
)
def test_the_value_is_the_one_that_was_asked_for(dtype: str, value: float) -> None:
    found = _padded(dtype, value)
    assert found.dtype == dtype
    assert np.array_equal(found, np.full(2, value, dtype), equal_nan=dtype.startswith("f"))


@pytest.mark.parametrize(
    ("dtype", "value"), [("u2", -100), ("u1", 256), ("i4", 0.5), ("i8", np.nan), ("?", 2)]
)
def test_a_value_that_the_type_does_not_have_is_refused(dtype: str, value: float) -> None:
    with pytest.raises(PipelineError, match="'x' is to be padded with"):
        _padded(dtype, value)


def test_a_run_says_so_too() -> None:
    pipeline = numbers(8).map(lambda one: {"x": np.ones(1 + one["x"] % 3, np.uint16)})
    with (
        pytest.raises(PipelineError, match="padded with -100, which uint16 does not have"),
        pipeline.batch(4, pad={"x": -100}).run() as run,
    ):
        list(run)

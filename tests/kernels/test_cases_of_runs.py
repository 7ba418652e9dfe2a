"""Problems that a run noted become cases of the very same size, and right ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iopipe.bench.kernels import columns, ragged, tokens
from iopipe.bench.kernels.catalogue import cases_like
from iopipe.kernels.columns import Affine, EncodedColumn, decode_column
from iopipe.kernels.packed import Packed
from iopipe.kernels.ragged import pad, unpad
from iopipe.kernels.shapes import Seen, collect_shapes, read_shapes
from iopipe.kernels.token_batch import TokenOptions, TokenRows
from iopipe.kernels.tokens import pack_tokens

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODULES = [columns, ragged, tokens]


def _tokens() -> None:
    rows = torch.zeros(3, 9, dtype=torch.uint16, device=DEVICE)
    pack_tokens(TokenRows(rows), TokenOptions(end_token=1, max_documents=8))


def _pad() -> None:
    pad(torch.zeros(7, device=DEVICE), torch.tensor([0, 3, 7], device=DEVICE), length=5)


def _copy() -> None:
    offsets = torch.tensor([0, 3, 7], device=DEVICE)
    unpad(torch.zeros(2, 5, 3, device=DEVICE), offsets, total=7)


def _column(dtype: torch.dtype, entries: int, *, compact: bool) -> None:
    codes = Packed(
        data=torch.zeros(50, dtype=torch.uint8, device=DEVICE), bit_width=5, num_values=70
    )
    valid = Packed(
        data=torch.zeros(9, dtype=torch.uint8, device=DEVICE), bit_width=1, num_values=70
    )
    kind = torch.float32 if dtype.is_floating_point else dtype
    dictionary = torch.zeros(entries, dtype=kind, device=DEVICE) if entries else None
    column = EncodedColumn(codes=codes, validity=valid, compact=compact, dictionary=dictionary)
    decode_column(column, dtype=dtype, affine=Affine())


# Making a baseline imports torch's compiler, which warns of torch's own code.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.parametrize(
    "launch",
    [
        _tokens,
        _pad,
        _copy,
        lambda: _column(torch.float32, 20, compact=False),
        lambda: _column(torch.int64, 20, compact=True),
        lambda: _column(torch.int32, 0, compact=False),
    ],
    ids=["tokens", "pad", "copy", "floats", "ids by rank", "codes"],
)
def test_a_case_has_the_size_of_the_run_and_agrees(
    tmp_path: Path, launch: Callable[[], None]
) -> None:
    with collect_shapes(tmp_path / "shapes.json"):
        launch()
    (seen,) = read_shapes(tmp_path / "shapes.json")
    (case,) = cases_like(MODULES, DEVICE, seen=[seen], on_missing=_fail)
    assert case.problem == seen.problem
    assert case.agrees(case.run(None), case.twin())


def _fail(seen: Seen) -> None:
    raise AssertionError(f"no case for {seen}")

"""What a pipeline launches on a device, against what it makes on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iopipe
from iopipe.loaders.arena import Place
from iopipe.loaders.collate import views
from iopipe.loaders.next_token import NextTokenStep
from iopipe.stages import NextToken


@pytest.mark.parametrize("end_token", [None, 7])
@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_the_launch_fills_what_the_host_makes(
    tmp_path: Path, device: str, dtype: Any, is_resident: bool, end_token: int | None
) -> None:
    tokens = np.random.default_rng(0).integers(0, 20, 500).astype(dtype)
    tokens.tofile(tmp_path / "t.bin")
    options = iopipe.OpenOptions(window=17, token_dtype=dtype)
    source: Any = iopipe.open_source(tmp_path / "t.bin", options=options)
    step = NextTokenStep(
        NextToken(end_token=end_token, resident=is_resident), source, iopipe.PosixStore
    )
    starts = np.array([0, 17, 170, 476])
    given = torch.from_numpy(starts)
    name, rows = "start", given
    if is_resident:
        step._pool = torch.from_numpy(tokens).to(device)
    else:
        rows = torch.from_numpy(np.stack([tokens[start : start + 17] for start in starts]))
        name = "tokens"
    place = Place(0, tuple(rows.shape), np.dtype(dtype if name == "tokens" else np.int64))
    places, num_bytes = step.places({name: place}, place.num_bytes)
    columns = views(torch.full((num_bytes,), 0xA5, dtype=torch.uint8, device=device), places)
    step._launch(rows.to(device), columns)
    step._pool = None if step._pool is None else step._pool.cpu()
    expected = step._on_host(rows)
    assert expected.keys() >= {"inputs", "labels"}
    for one, tensor in expected.items():
        assert torch.equal(columns[one].cpu(), tensor)

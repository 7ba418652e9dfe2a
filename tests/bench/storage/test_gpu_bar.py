"""The bar of the GPU machine, here with a false kvikio and a false torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import kvikio as fake_kvikio

from iopipe.bench.storage import gpu_bar
from iopipe.storage import gds
from iopipe.storage.gds_probe import GdsPath


class _Tensor(fake_kvikio.DeviceArray):
    """A GPU's tensor as far as the measurement goes."""

    def __len__(self) -> int:
        return len(self.memory)

    def zero_(self) -> None:
        self.memory[:] = 0

    def view(self, dtype: object) -> torch.Tensor:
        return torch.from_numpy(self.memory.view(np.int64))

    def copy_(self, other: object, non_blocking: bool) -> None:
        pass


class _Cuda:
    @staticmethod
    def synchronize() -> None:
        pass


class _Torch:
    cuda, uint8, int64 = _Cuda, torch.uint8, torch.int64

    @staticmethod
    def zeros(num_bytes: int, **_: object) -> _Tensor:
        return _Tensor(num_bytes)

    @staticmethod
    def empty(num_bytes: int, **_: object) -> _Tensor:
        return _Tensor(1024)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(gpu_bar, "cuda_torch", lambda: _Torch)
    monkeypatch.setattr(fake_kvikio.CuFile, "close", lambda self: None, raising=False)
    store = gds.GdsStore

    def opened(url: str, **options: Any) -> gds.GdsStore:
        return store(url, ask=lambda path: GdsPath("compat", "a test"), **options)

    monkeypatch.setattr(gpu_bar, "GdsStore", opened)
    return fake_kvikio.install(monkeypatch)


def _arguments(folder: Path) -> list[str]:
    return [
        "--json", str(folder / "r.json"), "--size", "40MiB", "--rounds", "2",
        "--memory-folder", str(folder), "--disk-folder", str(folder),
    ]  # fmt: skip


def test_both_places_are_measured_and_named(machine: dict[str, Any], tmp_path: Path) -> None:
    assert gpu_bar.main(_arguments(tmp_path)) == 0
    assert (machine["num_threads"], machine["task_size"]) == (16, 16 << 20)
    _, first, second = json.loads((tmp_path / "r.json").read_text())["rows"]
    for row, name in ((first, "tmpfs"), (second, "page cache")):
        assert row["name"] == name
        assert row["path"] == "compat (a test)"
        assert row["num_bytes"] == 40 << 20
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_wrong_bytes_are_an_error_and_the_other_place_goes_on(
    machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = gpu_bar._write_block
    monkeypatch.setattr(
        gpu_bar, "_write_block", lambda fd, start, size: write(fd, start and start - 1, size)
    )
    assert gpu_bar.main(_arguments(tmp_path)) == 1
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["error"][:9] for row in rows[1:]] == ["DataError"] * 2


def test_without_a_gpu_it_says_so() -> None:
    from iopipe.errors import MissingDependency

    with pytest.raises(MissingDependency, match="no CUDA device"):
        gpu_bar.main(["--size", "1MiB"])

"""`iopipe.meter(loader)`: any iterable, unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import iopipe
from iopipe.errors import PipelineError
from iopipe.meter.cores import usable_cores
from iopipe.meter.watched import events_of


def test_torchs_loader_is_measured_and_keeps_its_attributes() -> None:
    loader = DataLoader(TensorDataset(torch.arange(24)), batch_size=4)
    metered = iopipe.meter(loader)
    assert len(metered) == 6
    assert metered.batch_size == 4
    for _ in range(2):
        batches = []
        for (batch,) in metered:
            batches += batch.tolist()
            metered.step()
        assert batches == list(range(24))
    report = metered.report()
    assert report.num_steps == 11
    assert report.num_samples == 48
    assert set(report.causes) <= {"loader", "queue"}
    with pytest.raises(AttributeError, match="no_such_thing"):
        metered.no_such_thing  # noqa: B018


def test_a_generator_is_measured_and_its_errors_are_its_own() -> None:
    def batches() -> Iterator[torch.Tensor]:
        yield torch.zeros(3)
        yield torch.zeros(3)
        raise RuntimeError("the disk is gone")

    metered = iopipe.meter(batches())
    with pytest.raises(TypeError, match="len"):
        len(metered)
    seen = []
    with pytest.raises(RuntimeError, match="the disk is gone"):
        seen += list(metered)
    assert metered.report().num_steps == 1


def test_the_device_is_the_hosts_or_one_of_cudas() -> None:
    for device in (None, "cpu", "cpu:0", torch.device("cpu")):
        assert events_of(device).stream == "host thread"  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="device is 'mps': give 'cpu', 'cuda' or 'cuda:1'"):
        iopipe.meter([1], device="mps")


def test_a_metered_loader_can_be_copied() -> None:
    loader = copy.copy(iopipe.meter([1, 2]))
    assert list(loader) == [1, 2]


def test_cores_are_no_more_than_the_groups_quota(tmp_path: Path) -> None:
    own = tmp_path / "groups" / "a" / "b"
    own.mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text("1:name=x:/\n0::/a/b\n")
    (own / "cpu.max").write_text("max 100000\n")
    most = usable_cores(tmp_path / "groups", membership)
    assert most >= 1
    (own.parent / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path / "groups", membership) == 0.5
    assert usable_cores(tmp_path / "groups", tmp_path / "nowhere") == most

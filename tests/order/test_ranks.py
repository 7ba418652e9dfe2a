"""Rank and world are found where the launcher left them, and nothing is initialised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from fakes.source import numbers

from iopipe.errors import PipelineError
from iopipe.order.ranks import detect_ranks

NAMES = [
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for pair in NAMES:
        for name in pair:
            monkeypatch.delenv(name, raising=False)


def test_alone() -> None:
    assert detect_ranks() == (0, 1)
    assert not dist.is_initialized()


@pytest.mark.parametrize(("rank", "world"), NAMES)
def test_the_launchers_environment(rank: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rank, "2")
    assert detect_ranks() == (0, 1)  # a rank alone says nothing
    monkeypatch.setenv(world, "5")
    order = numbers(20).split().order
    assert (order.rank, order.world) == (2, 5)


def test_a_process_group_counts_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "5")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert detect_ranks() == (0, 1)
    finally:
        dist.destroy_process_group()


def test_what_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "two")
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(PipelineError, match="RANK is 'two' in the environment"):
        detect_ranks()


def test_rank_and_world_come_together() -> None:
    with pytest.raises(PipelineError, match="rank is 1 and world None: give both or neither"):
        numbers(20).split(1)

"""Rank and world are found where the launcher left them, and nothing is initialised."""

from __future__ import annotations

import multiprocessing
from multiprocessing import Queue
from pathlib import Path

import pytest
import torch.distributed as dist
from fakes.source import numbers

from iopipe.errors import PipelineError, StateError
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


def _compare(rank: int, folder: str, results: Queue[str]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=3)
    try:
        numbers(20).shuffle(1).split().batch(4).check_ranks()
        results.put("same")
        numbers(21 if rank == 1 else 20).shuffle(1).split().batch(4).check_ranks()
    except StateError as error:
        results.put(str(error))
    finally:
        dist.destroy_process_group()


def test_ranks_that_see_other_data_are_named_on_every_rank(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: Queue[str] = context.Queue()
    ranks = [context.Process(target=_compare, args=(n, str(tmp_path), results)) for n in range(3)]
    for process in ranks:
        process.start()
    said = sorted(results.get(timeout=60) for _ in range(6))
    for process in ranks:
        process.join()
    expected = "ranks see different data: rank 1 has dataset 'numbers-21', others have 'numbers-20'"
    assert said == [expected] * 3 + ["same"] * 3


def test_ranks_are_compared_in_a_process_group_only() -> None:
    with pytest.raises(PipelineError, match="init_process_group first"):
        numbers(20).check_ranks()

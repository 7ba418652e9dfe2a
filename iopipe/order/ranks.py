"""Which rank this process is, and of how many.

Asked when a pipeline is split.  Invariant: no process group is made, torch is not imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from iopipe.errors import PipelineError, StateError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, Accelerate, DeepSpeed, Lightning
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
)


_LOCAL_LAUNCHERS = (
    ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


def detect_ranks() -> tuple[int, int]:
    """(rank, world) of an initialised torch.distributed, else of the launcher's environment,
    else (0, 1)."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    for rank, world in _LAUNCHERS:
        if rank in os.environ and world in os.environ:
            return _number(rank), _number(world)
    return 0, 1


def detect_local_ranks() -> tuple[int, int]:
    """(rank, ranks) on this machine, of the launcher's environment, else (0, 1)."""
    for rank, world in _LOCAL_LAUNCHERS:
        if rank in os.environ and world in os.environ:
            return _number(rank), _number(world)
    return 0, 1


def check_ranks(identity: Mapping[str, Any]) -> None:
    """Compare `identity` over all ranks of torch.distributed; each must call it.

    `StateError` on every rank where one differs from most of the others.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        raise PipelineError(
            "there are no ranks to compare: call torch.distributed.init_process_group first"
        )
    found: list[dict[str, Any]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(found, dict(identity))
    usual = max(found, key=found.count)
    differing = [
        f"rank {rank} has {name} {one.get(name)!r}, others have {value!r}"
        for rank, one in enumerate(found)
        for name, value in usual.items()
        if one.get(name) != value
    ]
    if differing:
        raise StateError(f"ranks see different data: {'; '.join(differing)}")


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise PipelineError(
            f"{name} is {os.environ[name]!r} in the environment; unset it or give rank and world"
        ) from None

"""Which rank this process is, and of how many.

Asked when a pipeline is split.  Invariant: only looks; no process group is made, torch is not
imported.
"""

from __future__ import annotations

import os
import sys

from iopipe.errors import PipelineError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, Accelerate, DeepSpeed, Lightning
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
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


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise PipelineError(
            f"{name} is {os.environ[name]!r} in the environment; unset it or give rank and world"
        ) from None

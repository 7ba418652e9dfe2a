"""Workers near the GPU that they feed.

Stands between the topology and those who start workers.  Invariant: what is not known is not
bound, and what the kernel refuses is said by name.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Literal, TypeAlias

import torch

from iopipe.errors import PipelineError
from iopipe.order.ranks import detect_local_ranks
from iopipe.topology import Binding, apply_binding, pci_address, plan_binding, read_topology

Numa: TypeAlias = Literal["auto"]

_log = logging.getLogger(__name__)


def binding_for(numa: Numa | None, *, device: str | None, num_workers: int) -> Binding | None:
    """What 'auto' means here: this rank's part of the machine, divided among its workers."""
    if numa is None or num_workers == 0:
        return None
    if numa != "auto":
        raise PipelineError(f"numa is {numa!r}: give 'auto' or None")
    rank, world = detect_local_ranks()
    binding = plan_binding(
        read_topology(),
        gpu=_gpu_address(device),
        local_rank=rank,
        local_world=world,
        num_workers=num_workers,
    )
    _log.info("workers are bound: %s", "; ".join(binding.reasons))
    return binding


def bind_worker(binding: Binding | None, number: int) -> None:
    """Bind this process to worker `number`'s CPUs, and its memory to their node."""
    if binding is None:
        return
    for problem in apply_binding(binding, worker=number).problems:
        _log.warning("worker %d is not bound as planned: %s", number, problem)


def bind_thread(binding: Binding | None, number: int) -> None:
    """The calling thread alone."""
    if binding is None:
        return
    try:
        os.sched_setaffinity(0, binding.worker_cpus[number])
    except OSError as error:
        _log.warning("worker thread %d is not bound: %s", number, error.strerror)


def _gpu_address(device: str | None) -> str | None:
    if device is None or not device.startswith("cuda"):
        return None
    found: Any = torch.cuda.get_device_properties(torch.device(device))
    return pci_address(found.pci_domain_id, found.pci_bus_id, found.pci_device_id)

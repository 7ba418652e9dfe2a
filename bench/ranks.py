"""One rank of a training that `iopipe.bench.two_ranks` starts: where it runs, and with whom.

Stands between the launcher and what a rank is to do.  Invariant: a rank is bound to its own cores
and its GPU's node before its training touches memory.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

import iopipe
from iopipe.topology import Applied, Binding, Topology, apply_binding, pci_address, plan_binding

_TIMEOUT = datetime.timedelta(seconds=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """This process among its like."""

    number: int
    world: int
    device: str
    topology: Topology
    binding: Binding
    applied: Applied

    def place(self) -> dict[str, Any]:
        """Where it runs, for the results."""
        policy = self.applied.policy
        return {
            "rank": self.number,
            "device": self.device,
            "cpus": list(self.applied.cpus),
            "node": self.binding.node,
            "memory": None if policy is None else f"{policy.mode} {list(policy.nodes)}",
            "reasons": list(self.binding.reasons),
            "problems": list(self.applied.problems),
        }

    def of_all(self, value: Any) -> list[Any]:
        """What every rank gives, by rank; all of them call it."""
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found

    def together(self) -> None:
        """Waits for the others, without the GPU."""
        distributed.all_reduce(torch.zeros(1))


def join(number: int, world: int, *, backend: str, meeting: Path, places: int) -> Rank:
    """Bind this process, as one of `places` that share the machine, and meet the others."""
    on_gpu = backend == "nccl"
    topology = iopipe.read_topology()
    addresses = _addresses(places) if on_gpu else None
    binding = _binding(topology, number, places, addresses)
    applied = apply_binding(binding)
    device = f"cuda:{number}" if on_gpu else "cpu"
    torch.set_num_threads(max(1, len(binding.cpus) // 2))
    if on_gpu:
        torch.cuda.set_device(number)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=number,
        world_size=world,
        timeout=_TIMEOUT,
    )
    return Rank(
        number=number,
        world=world,
        device=device,
        topology=topology,
        binding=binding,
        applied=applied,
    )


def leave() -> None:
    distributed.destroy_process_group()


def _addresses(number: int) -> list[str]:
    if torch.cuda.device_count() < number:
        raise iopipe.PipelineError(
            f"{number} GPUs are needed, torch sees {torch.cuda.device_count()}"
        )
    found: list[Any] = [torch.cuda.get_device_properties(place) for place in range(number)]
    return [pci_address(one.pci_domain_id, one.pci_bus_id, one.pci_device_id) for one in found]


def _binding(
    topology: Topology, number: int, places: int, addresses: Sequence[str] | None
) -> Binding:
    known = {gpu.address for gpu in topology.gpus}
    if addresses is not None and known.issuperset(addresses):
        return plan_binding(
            topology,
            gpu=addresses[number],
            local_rank=number,
            local_world=places,
            gpu_of_rank=addresses,
        )
    binding = plan_binding(topology, gpu=None, local_rank=number, local_world=places)
    if addresses is None:
        return binding
    reason = f"the machine shows GPUs {sorted(known)}, torch uses {list(addresses)}"
    return replace(binding, reasons=(reason, *binding.reasons))


def other_node(rank: Rank) -> Binding | None:
    """As many CPUs of another node, and its memory; None where there is but one to go to."""
    allowed = set(rank.topology.limits.cpus)
    for node in rank.topology.nodes:
        cpus = [cpu for cpu in node.cpus if cpu in allowed]
        if rank.binding.node is not None and node.index != rank.binding.node and cpus:
            share = len(rank.binding.cpus)
            first = rank.number * share if len(cpus) >= rank.world * share else 0
            return Binding(
                node=node.index,
                memory_node=node.index if node.index in rank.topology.limits.memory_nodes else None,
                cpus=tuple(cpus[first : first + share]),
                worker_cpus=(),
                reasons=("another node than the GPU's, on purpose",),
            )
    return None


def pages_of_slots() -> dict[int, int]:
    """How many pages of this process's host slots are on which node, as /proc says; nothing
    where the kernel has no NUMA."""
    path = Path(f"/proc/{os.getpid()}/numa_maps")
    found: dict[int, int] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if "memfd:iopipe-slot" in line:
            for node, pages in re.findall(r"\bN(\d+)=(\d+)", line):
                found[int(node)] = found.get(int(node), 0) + int(pages)
    return found


def contexts() -> list[int]:
    """The GPUs that this process has a context on: more than its own is memory wasted there."""
    binding: Any = torch._C
    return [g for g in range(torch.cuda.device_count()) if binding._cuda_hasPrimaryContext(g)]

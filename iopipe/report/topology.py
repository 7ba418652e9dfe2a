"""A machine's topology, and what a run would bind, for people and as JSON.

Stands at the end of `iopipe topology`.  Invariant: the plans shown are those that
`plan_binding` gives to a run with one rank for each GPU.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iopipe.topology import Binding, Topology, plan_binding
from iopipe.topology.tree import format_cpus


def plans_of(topology: Topology, *, num_workers: int) -> list[Binding]:
    """One rank for each GPU; a single rank where there is none."""
    gpus = [gpu.address for gpu in topology.gpus]
    if not gpus:
        return [plan_binding(topology, gpu=None, num_workers=num_workers)]
    return [
        plan_binding(
            topology,
            gpu=gpu,
            local_rank=rank,
            local_world=len(gpus),
            num_workers=num_workers,
            gpu_of_rank=gpus,
        )
        for rank, gpu in enumerate(gpus)
    ]


def topology_json(topology: Topology, plans: list[Binding]) -> str:
    content = {"schema": 1, **asdict(topology), "plans": [asdict(plan) for plan in plans]}
    return json.dumps(content, indent=1)


def print_topology(
    topology: Topology, plans: list[Binding], *, console: Console | None = None
) -> None:
    console = console or Console(highlight=False)
    console.print(_nodes(topology))
    console.print(_devices(topology))
    console.print(escape(_limits(topology)), soft_wrap=True)
    console.print(_plans(plans))
    for rank, plan in enumerate(plans):
        console.print(escape(f"rank {rank}: {'; '.join(plan.reasons)}"), soft_wrap=True)


def _nodes(topology: Topology) -> Table:
    table = Table("node", "CPUs", "memory", *(f"to {one.index}" for one in topology.nodes))
    for node in topology.nodes:
        to_others = (str(node.distances.get(one.index, "?")) for one in topology.nodes)
        memory = f"{node.memory_bytes / (1 << 30):.3g} GiB"
        table.add_row(str(node.index), format_cpus(node.cpus) or "none", memory, *to_others)
    return table


def _devices(topology: Topology) -> Table:
    table = Table("device", "node", "PCI address", "what")
    rows = [
        *((f"gpu {i}", one.node, one.address, one.name) for i, one in enumerate(topology.gpus)),
        *((one.name, one.node, one.address, "disk") for one in topology.disks),
        *((one.name, one.node, one.address, _speed(one.speed_mbps)) for one in topology.nics),
    ]
    for name, node, address, what in rows:
        table.add_row(escape(name), _or_unknown(node), address or "none", escape(what))
    return table


def _limits(topology: Topology) -> str:
    limits = topology.limits
    parts = [
        f"this process may use CPUs {format_cpus(limits.cpus) or 'not known'}",
        "no CPU quota" if limits.quota_cpus is None else f"{limits.quota_cpus:g} CPUs' time",
        f"memory of nodes {format_cpus(limits.memory_nodes) or 'not known'}",
    ]
    if limits.memory_bytes is not None:
        parts.append(f"at most {limits.memory_bytes / (1 << 30):.3g} GiB")
    return ", ".join(parts)


def _plans(plans: list[Binding]) -> Table:
    table = Table("rank", "node", "memory", "CPUs", "CPUs of the workers")
    for rank, plan in enumerate(plans):
        memory = "not bound" if plan.memory_node is None else f"node {plan.memory_node}"
        workers = " | ".join(format_cpus(cpus) for cpus in plan.worker_cpus)
        table.add_row(str(rank), _or_unknown(plan.node), memory, format_cpus(plan.cpus), workers)
    return table


def _speed(mbps: int | None) -> str:
    return "network" if mbps is None else f"network, {mbps / 1000:g} Gbit/s"


def _or_unknown(node: int | None) -> str:
    return "?" if node is None else str(node)

"""Which CPUs and which node's memory each local rank and each of its workers should use.

Stands between the topology and `binding`, which makes it so.  Invariant: the CPUs of two ranks of
one machine are disjoint as long as there are enough, whichever rank computes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from iopipe.errors import PipelineError
from iopipe.topology.machine import Gpu, Topology
from iopipe.topology.tree import format_cpus

_Core: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What one rank would be bound to; nothing has been done yet."""

    node: int | None
    """The node nearest to the GPU whose CPUs may be used; None: not known, or there is but one."""
    memory_node: int | None
    """Where memory should come from; None: do not bind memory."""
    cpus: tuple[int, ...]
    """Of this rank, first one of each core, then their siblings."""
    worker_cpus: tuple[tuple[int, ...], ...]
    """Of each worker, a part of `cpus`; the first core is left to the training process where
    there are enough."""
    reasons: tuple[str, ...]
    """In words, for people: what was decided and why."""


def plan_binding(
    topology: Topology,
    *,
    gpu: int | str | None,
    local_rank: int = 0,
    local_world: int = 1,
    num_workers: int = 0,
    gpu_of_rank: Sequence[int | str] | None = None,
) -> Binding:
    """Divide the machine between its ranks, and this rank's part between its workers.

    `gpu` is the one of this rank (place in `topology.gpus` or PCI address).  With `gpu_of_rank`,
    those of all local ranks, only ranks on one node share its CPUs; without it every node is
    divided by `local_world`, which is disjoint whatever the others use, and leaves CPUs idle
    where ranks are spread over nodes.  All ranks must give the same `gpu_of_rank`.

    `PipelineError` for a GPU that is not there, a rank outside the world, a `gpu_of_rank` that
    does not fit, or where no CPU may be used.
    """
    _check(topology, local_rank, local_world, num_workers)
    if gpu_of_rank is not None:
        _check_gpus(topology, gpu, local_rank, local_world, gpu_of_rank)
    reasons: list[str] = []
    node = None if gpu is None else _home(topology, topology.gpu(gpu), reasons)
    if gpu is None:
        reasons.append("no GPU was named: no node is nearer than another")
    place, sharing, whole = local_rank, local_world, node is None
    if gpu_of_rank is not None and node is not None:
        homes = [_home(topology, topology.gpu(one), []) for one in gpu_of_rank]
        if None in homes:
            whole = True
            reasons.append("the node of another rank's GPU is not known: all nodes are divided")
        else:
            place, sharing = homes[:local_rank].count(node), homes.count(node)
    slices = _slices(topology, None if whole else node, place, sharing, reasons)
    cores = _within_quota(topology, slices, local_world, reasons)
    return Binding(
        node=None if whole else node,
        memory_node=_memory_node(topology, None if whole else node, reasons),
        cpus=_firsts_then_siblings(cores),
        worker_cpus=_workers(topology, cores, num_workers, reasons),
        reasons=tuple(reasons),
    )


def _check(topology: Topology, local_rank: int, local_world: int, num_workers: int) -> None:
    if not 0 <= local_rank < local_world:
        raise PipelineError(f"local_rank {local_rank} is not within local_world {local_world}")
    if num_workers < 0:
        raise PipelineError(f"num_workers is {num_workers}: give 0 or more")
    if not topology.limits.cpus:
        raise PipelineError("no CPU may be used, as /proc and /sys say: is /sys mounted?")


def _check_gpus(
    topology: Topology,
    gpu: int | str | None,
    local_rank: int,
    local_world: int,
    gpu_of_rank: Sequence[int | str],
) -> None:
    if len(gpu_of_rank) != local_world:
        raise PipelineError(
            f"gpu_of_rank names {len(gpu_of_rank)} GPUs: give one for each of {local_world} ranks"
        )
    if gpu is None or topology.gpu(gpu) != topology.gpu(gpu_of_rank[local_rank]):
        raise PipelineError(
            f"gpu is {gpu!r}, but gpu_of_rank gives {gpu_of_rank[local_rank]!r} to rank "
            f"{local_rank}: they must agree"
        )


def _home(topology: Topology, gpu: Gpu, reasons: list[str]) -> int | None:
    """The nearest node with CPUs that may be used."""
    if len(topology.nodes) < 2:
        reasons.append("there is a single node: nothing to bind memory to")
        return None
    if gpu.node is None:
        reasons.append(f"the node of GPU {gpu.address} is not known (-1): do not bind memory")
        return None
    if gpu.node not in {node.index for node in topology.nodes}:
        reasons.append(f"node {gpu.node} of GPU {gpu.address} is offline: do not bind memory")
        return None
    own = topology.node(gpu.node)
    usable = [node for node in topology.nodes if set(node.cpus) & set(topology.limits.cpus)]
    if not usable:
        reasons.append("it is not known on which nodes the usable CPUs are: do not bind memory")
        return None
    nearest = min(usable, key=lambda node: (_distance(own.distances, node.index), node.index))
    if nearest.index == own.index:
        reasons.append(f"GPU {gpu.address} is on node {own.index}")
    else:
        lack = "the cpuset or mask leaves none of its CPUs" if own.cpus else "it has no CPUs"
        reasons.append(
            f"GPU {gpu.address} is on node {own.index}, but {lack}: node {nearest.index} is the "
            "nearest"
        )
    return nearest.index


def _distance(distances: Mapping[int, int], index: int) -> float:
    """A node of which the firmware gives no distance is the farthest."""
    return distances.get(index, math.inf)


def _slices(
    topology: Topology, node: int | None, place: int, sharing: int, reasons: list[str]
) -> list[_Core]:
    """The part `place` of `sharing` of a node's cores; of every node's where `node` is None."""
    groups = [set(one.cpus) for one in topology.nodes if node in (None, one.index) and one.cpus]
    if node is None:
        groups.append(set(topology.limits.cpus).difference(*groups))
    pools = [pool for group in groups if (pool := _usable(topology, group))]
    found = [core for pool in pools for core in _share(pool, place, sharing)]
    if not found:
        found = _scarce(pools, place, reasons)
    reasons.append(
        f"CPUs {format_cpus(_firsts_then_siblings(found))} are part {place + 1} of {sharing} of "
        f"{'all nodes' if node is None else f'node {node}'}"
    )
    return found


def _usable(topology: Topology, group: set[int]) -> list[_Core]:
    """The cores of a node, with those of their CPUs that may be used."""
    allowed = group & set(topology.limits.cpus)
    cores = [tuple(cpu for cpu in core if cpu in allowed) for core in topology.cores]
    return [core for core in cores if core]


def _share(pool: list[_Core], place: int, sharing: int) -> list[_Core]:
    """Whole cores; CPUs where there are fewer cores than ranks; maybe nothing."""
    if len(pool) < sharing:
        pool = [(cpu,) for core in pool for cpu in core]
    if len(pool) < sharing:
        return []
    return pool[place * len(pool) // sharing : (place + 1) * len(pool) // sharing]


def _scarce(pools: list[list[_Core]], place: int, reasons: list[str]) -> list[_Core]:
    cpus = [cpu for pool in pools for core in pool for cpu in core]
    reasons.append(f"there are fewer CPUs ({len(cpus)}) than ranks to share them: some are shared")
    return [(cpus[place % len(cpus)],)]


def _within_quota(
    topology: Topology, cores: list[_Core], local_world: int, reasons: list[str]
) -> list[_Core]:
    """No more CPUs than the quota gives time for; first threads before siblings."""
    quota = topology.limits.quota_cpus
    wanted = _firsts_then_siblings(cores)
    if quota is None or quota / local_world >= len(wanted):
        return cores
    kept = set(wanted[: max(1, math.floor(quota / local_world))])
    reasons.append(
        f"the quota of {quota:g} CPUs leaves {len(kept)} of {len(wanted)} CPUs to this rank"
    )
    found = [tuple(cpu for cpu in core if cpu in kept) for core in cores]
    return [core for core in found if core]


def _memory_node(topology: Topology, node: int | None, reasons: list[str]) -> int | None:
    if node is None:
        return None
    if node not in topology.limits.memory_nodes:
        reasons.append(f"the cpuset forbids memory of node {node}: do not bind memory")
        return None
    if topology.node(node).memory_bytes == 0:
        reasons.append(f"node {node} has no memory: do not bind memory")
        return None
    reasons.append(f"memory comes from node {node}")
    return node


def _firsts_then_siblings(cores: Sequence[_Core]) -> tuple[int, ...]:
    depth = max((len(core) for core in cores), default=0)
    return tuple(core[level] for level in range(depth) for core in cores if level < len(core))


def _workers(
    topology: Topology, cores: list[_Core], num_workers: int, reasons: list[str]
) -> tuple[tuple[int, ...], ...]:
    """Cores of their own while there are enough, then CPUs in turn."""
    rest = cores[1:] or cores
    if num_workers <= len(rest):
        found = [_firsts_then_siblings(rest[place::num_workers]) for place in range(num_workers)]
    else:
        cpus = _firsts_then_siblings(rest)
        found = [(cpus[place % len(cpus)],) for place in range(num_workers)]
    isolated = set(topology.isolated)
    if any(isolated & set(cpus) for cpus in found):
        reasons.append("isolated CPUs are not balanced by the kernel: one CPU a worker")
        found = [cpus[:1] for cpus in found]
    return tuple(found)

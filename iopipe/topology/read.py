"""Reads a machine's topology from /proc and /sys.

Stands between the kernel's files and `plan`.  Invariant: only files are read; nothing is started,
no driver is opened, and CUDA stays as it was.
"""

from __future__ import annotations

import re
from pathlib import Path

from iopipe.topology.cgroups import cpuset, memory_limit, quota_cpus
from iopipe.topology.devices import read_disks, read_gpus, read_nics
from iopipe.topology.machine import Limits, Node, Topology
from iopipe.topology.tree import Tree, parse_cpus

_NODES, _CPUS = "sys/devices/system/node", "sys/devices/system/cpu"


def read_topology(*, root: Path = Path("/")) -> Topology:
    """`root` stands for / in tests.  `DataError` where a file of the kernel's is not as the
    kernel writes it; what is missing is empty or None."""
    tree = Tree(root)
    online = parse_cpus(tree.text(f"{_CPUS}/online") or "")
    nodes = _nodes(tree, online)
    return Topology(
        nodes=nodes,
        cores=_cores(tree, online),
        isolated=parse_cpus((tree.text(f"{_CPUS}/isolated") or "").replace("(null)", "")),
        gpus=read_gpus(tree),
        disks=read_disks(tree),
        nics=read_nics(tree),
        limits=_limits(tree, online, nodes),
    )


def _nodes(tree: Tree, online: tuple[int, ...]) -> tuple[Node, ...]:
    text = tree.text(f"{_NODES}/online")
    if text is None:
        names = tree.names(_NODES, "node[0-9]*")
        indices: tuple[int, ...] = tuple(int(name.removeprefix("node")) for name in names)
    else:
        indices = parse_cpus(text)
    return tuple(_node(tree, index, indices, online) for index in indices)


def _node(tree: Tree, index: int, indices: tuple[int, ...], online: tuple[int, ...]) -> Node:
    here = f"{_NODES}/node{index}"
    cpus = parse_cpus(tree.text(f"{here}/cpulist") or "")
    distances = map(int, (tree.text(f"{here}/distance") or "").split())
    total = re.search(r"MemTotal:\s*(\d+) kB", tree.text(f"{here}/meminfo") or "")
    return Node(
        index=index,
        cpus=tuple(cpu for cpu in cpus if cpu in set(online)),
        memory_bytes=int(total[1]) * 1024 if total else 0,
        # One number for each online node, in their order, not for each index.
        distances=dict(zip(indices, distances, strict=False)),
    )


def _cores(tree: Tree, online: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """A CPU of which the kernel does not say who shares its core is a core of its own."""
    found = set()
    for cpu in online:
        siblings = parse_cpus(tree.text(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list") or "")
        found.add(tuple(one for one in siblings if one in set(online)) or (cpu,))
    return tuple(sorted(found))


def _limits(tree: Tree, online: tuple[int, ...], nodes: tuple[Node, ...]) -> Limits:
    cpus = set(online)
    for allowed in (_status(tree, "Cpus_allowed_list"), cpuset(tree, "cpus")):
        cpus &= cpus if allowed is None else set(allowed)
    memory_nodes = {node.index for node in nodes}
    for allowed in (_status(tree, "Mems_allowed_list"), cpuset(tree, "mems")):
        memory_nodes &= memory_nodes if allowed is None else set(allowed)
    return Limits(
        cpus=tuple(sorted(cpus)),
        memory_nodes=tuple(sorted(memory_nodes)),
        quota_cpus=quota_cpus(tree),
        memory_bytes=memory_limit(tree),
    )


def _status(tree: Tree, field: str) -> tuple[int, ...] | None:
    found = re.search(rf"^{field}:\s*(\S+)$", tree.text("proc/self/status") or "", re.MULTILINE)
    return parse_cpus(found[1]) if found else None

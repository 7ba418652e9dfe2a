"""Runs as the first process of a machine with two nodes, see test_two_nodes.py; prints JSON.

The guest has this file, the interpreter, and `iopipe` without its dependencies.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import mmap
import os
import re
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_POWER_OFF = 0x4321FEDC
_NUM_PAGES = 512


def main() -> None:
    for kind, point in ((b"proc", b"/proc"), (b"sysfs", b"/sys")):
        os.makedirs(point, exist_ok=True)
        assert _LIBC.mount(kind, point, kind, 0, None) == 0, os.strerror(ctypes.get_errno())
    try:
        sys.stdout.write(f"RESULT {json.dumps(_look())}\n")
        sys.stdout.flush()
    finally:
        os.sync()
        _LIBC.reboot(_POWER_OFF)


def _look() -> dict[str, object]:
    from iopipe.topology import Gpu, plan_binding, read_topology
    from iopipe.topology.tree import Tree

    topology = read_topology()
    near = [Gpu(address=f"0000:0{node}:00.0", node=node, name="") for node in (0, 1)]
    topology = dataclasses.replace(topology, gpus=tuple(near))
    names = Tree().names("sys/bus/pci/devices")
    places = [Tree().number(f"sys/bus/pci/devices/{name}/numa_node") for name in names]
    return {
        "nodes": [[node.index, node.cpus] for node in topology.nodes],
        "distances": [dict(node.distances) for node in topology.nodes],
        "has_memory": [node.memory_bytes > 64 << 20 for node in topology.nodes],
        "pci_nodes": sorted({place for place in places if place is not None}),
        "nics": [nic.node for nic in topology.nics],
        "ranks": [
            _bind(
                plan_binding(topology, gpu=rank, local_rank=rank, local_world=2, gpu_of_rank=[0, 1])
            )
            for rank in (0, 1)
        ],
    }


def _bind(binding: object) -> dict[str, object]:
    from iopipe.topology import MemoryPolicy, bound, find_pages, get_policy, place
    from iopipe.topology.plan import Binding

    assert isinstance(binding, Binding)
    with bound(binding, policy="bind") as applied:
        mine = _touched()
        said = {
            "cpus": applied.cpus,
            "problems": applied.problems,
            "runs_on": int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[36]),
            "pages": dict(find_pages(mine).pages_of_node),
            "kernel": re.findall(r" bind:(\d)", Path("/proc/self/numa_maps").read_text())[:1],
        }
    other = 1 - (binding.memory_node or 0)
    place(mine, MemoryPolicy(mode="bind", nodes=(other,)))
    said["moved"] = dict(find_pages(mine).pages_of_node)
    shared = _room()
    place(shared, MemoryPolicy(mode="interleave", nodes=(0, 1)))
    said["interleaved"] = dict(find_pages(_touch(shared)).pages_of_node)
    said["afterwards"] = [get_policy().mode, sorted(os.sched_getaffinity(0))]
    return said


def _room() -> memoryview:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    room = mmap.mmap(-1, _NUM_PAGES * mmap.PAGESIZE, flags=flags)
    room.madvise(mmap.MADV_NOHUGEPAGE)
    return memoryview(room)


def _touch(buffer: memoryview) -> memoryview:
    for page in range(_NUM_PAGES):
        buffer[page * mmap.PAGESIZE] = 1
    return buffer


def _touched() -> memoryview:
    return _touch(_room())


if __name__ == "__main__":
    sys.path.insert(0, "/project")
    main()

"""What the numbers depend on besides the code: filesystem, disk, scheduler, read-ahead, versions.

Stands beside `report_json`.  Invariant: what the kernel does not say is None, never a guess.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import iopipe
from iopipe.bench.harness import environment
from iopipe.bench.storage.targets import Target
from iopipe.topology.devices import disks_of
from iopipe.topology.mounts import mount_of
from iopipe.topology.tree import Tree

_PACKAGES = ("numpy", "torch", "obstore", "fsspec", "kvikio-cu13", "kvikio-cu12")


def surroundings(target: Target, *, tree: Tree | None = None) -> dict[str, Any]:
    """Of the first file; hardware and versions, no names of hosts or users."""
    tree = tree or Tree()
    machine = environment()
    return {
        "date": machine["date"],
        "kernel": platform.release(),
        **(_place(target, tree) if target.is_local else _no_place()),
        "cpu": machine["cpu"],
        "cores": int(machine["cores"]),
        "memory_bytes": memory_bytes(),
        **{name: machine[name] for name in ("gpu", "driver") if name in machine},
        "versions": {"iopipe": iopipe.__version__, "python": machine["python"], **_versions()},
    }


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _place(target: Target, tree: Tree) -> dict[str, Any]:
    path = str(target.paths[0])
    mount = mount_of(tree, path)
    disks = disks_of(tree, path)
    queue = f"sys/block/{disks[0].name}/queue" if disks else ""
    own = tree.number(f"sys/class/bdi/{mount.device}/read_ahead_kb") if mount else None
    read_ahead = own if own is not None else tree.number(f"{queue}/read_ahead_kb")
    scheduler = tree.text(f"{queue}/scheduler") if disks else None
    return {
        "filesystem": mount.kind if mount else None,
        "mount_options": sorted(mount.options | mount.super_options) if mount else None,
        "device": ", ".join(disk.name for disk in disks) or None,
        "scheduler": _chosen(scheduler) if scheduler else None,
        "read_ahead_kib": read_ahead,
    }


def _no_place() -> dict[str, Any]:
    names = ("filesystem", "mount_options", "device", "scheduler", "read_ahead_kib")
    return dict.fromkeys(names)


def _chosen(text: str) -> str:
    """Of a file such as 'none [mq-deadline] kyber'."""
    return text.partition("[")[2].partition("]")[0] or text


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

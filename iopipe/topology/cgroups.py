"""The limits that control groups, version 1 and 2, set to this process.

Stands between /sys/fs/cgroup and `topology.read`.  Invariant: a limit counts wherever it is set on
the way up, so the least one is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iopipe.topology.mounts import Mount, read_mounts
from iopipe.topology.tree import Tree, parse_cpus

_NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes 'no limit' as the largest multiple of a page in 63 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Where one controller of this process is found: folders from its own group upwards."""

    version: int
    folders: tuple[str, ...]


def find_group(tree: Tree, controller: str) -> Group | None:
    """`controller`: 'cpu', 'cpuset', 'memory'.  None where no group has it.

    A process may have both versions mounted; a controller is in one of them.
    """
    for _, controllers, path in _memberships(tree):
        if controller in controllers.split(","):
            mount = _mounted(tree, kind="cgroup", controller=controller)
            if mount is not None:
                return Group(version=1, folders=_upwards(tree, mount, path))
    for number, controllers, path in _memberships(tree):
        mount = _mounted(tree, kind="cgroup2", controller=None)
        if number == "0" and not controllers and mount is not None:
            return Group(version=2, folders=_upwards(tree, mount, path))
    return None


def quota_cpus(tree: Tree) -> float | None:
    """CPUs' worth of time; None without a limit.  Source: the kernel's sched-bwc and cgroup-v2."""
    group = find_group(tree, "cpu")
    if group is None:
        return None
    read = _quota_v1 if group.version == 1 else _quota_v2
    found = [quota for folder in group.folders if (quota := read(tree, folder)) is not None]
    return min(found, default=None)


def memory_limit(tree: Tree) -> int | None:
    """Bytes; None without a limit."""
    group = find_group(tree, "memory")
    if group is None:
        return None
    found = [_memory_limit(tree, group, folder) for folder in group.folders]
    return min((one for one in found if one is not None), default=None)


def memory_used(tree: Tree) -> int | None:
    """Bytes that count against the limit of its own group, less the clean pages of files that
    nobody uses, which go first: they are as good as free.  None where the kernel shows none."""
    group = find_group(tree, "memory")
    if group is None or not group.folders:
        return None
    return _memory_used(tree, group, group.folders[0], less=("inactive_file",))


def memory_left(tree: Tree) -> int | None:
    """Bytes up to the nearest limit on the way up, 0 at least; None where there is none, or none
    whose use is shown.  All pages of files count as free: the kernel ends nobody before it has
    taken those back."""
    group = find_group(tree, "memory")
    if group is None:
        return None
    left = []
    for folder in group.folders:
        limit = _memory_limit(tree, group, folder)
        used = _memory_used(tree, group, folder, less=("inactive_file", "active_file"))
        if limit is not None and used is not None:
            left.append(max(0, limit - used))
    return min(left, default=None)


def cpuset(tree: Tree, what: str) -> tuple[int, ...] | None:
    """`what`: 'cpus' or 'mems'; what the group may really use; None where it does not say."""
    group = find_group(tree, "cpuset")
    if group is None:
        return None
    name = f"cpuset.effective_{what}" if group.version == 1 else f"cpuset.{what}.effective"
    for folder in group.folders:
        if text := tree.text(f"{folder}/{name}"):
            return parse_cpus(text)
    return None


def _memory_limit(tree: Tree, group: Group, folder: str) -> int | None:
    name = "memory.limit_in_bytes" if group.version == 1 else "memory.max"
    limit = tree.number(f"{folder}/{name}")
    return None if limit is None or limit >= _NO_LIMIT_BYTES else limit


def _memory_used(tree: Tree, group: Group, folder: str, *, less: Sequence[str]) -> int | None:
    """With all groups below it; `less` are lines of memory.stat, as version 2 names them."""
    is_first = group.version == 1
    name, prefix = "memory.usage_in_bytes" if is_first else "memory.current", "total_" * is_first
    used = tree.number(f"{folder}/{name}")
    lines = (tree.text(f"{folder}/memory.stat") or "").splitlines()
    stat = dict(line.partition(" ")[::2] for line in lines)
    return None if used is None else used - sum(int(stat.get(prefix + one, 0)) for one in less)


def _quota_v1(tree: Tree, folder: str) -> float | None:
    quota = tree.number(f"{folder}/cpu.cfs_quota_us")
    period = tree.number(f"{folder}/cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _quota_v2(tree: Tree, folder: str) -> float | None:
    quota, _, period = (tree.text(f"{folder}/cpu.max") or "max").partition(" ")
    return None if quota == "max" else int(quota) / int(period or 100_000)


def _memberships(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """(hierarchy, controllers, path) of each line of /proc/self/cgroup, see cgroups(7)."""
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        yield number, controllers, path


def _mounted(tree: Tree, *, kind: str, controller: str | None) -> Mount | None:
    for mount in read_mounts(tree):
        if mount.kind == kind and (controller is None or controller in mount.super_options):
            return mount
    return None


def _upwards(tree: Tree, mount: Mount, path: str) -> tuple[str, ...]:
    """The group's folder and those above it, as far as this mount shows them.

    Inside a container /proc may name the path as the host sees it, while the mount begins at the
    container's own group: then that is where it is.
    """
    inside = path.removeprefix(mount.root) if mount.root != "/" else path
    parts = [part for part in inside.split("/") if part]
    folders = ["/".join([mount.point, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return tuple(folder for folder in folders if tree.at(folder).is_dir())

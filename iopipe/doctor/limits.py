"""What the session, the container and the control groups allow this process.

Stands beside the other topics of `doctor.examine`.  Invariant: limits are read where the kernel
enforces them, not where they were written.
"""

from __future__ import annotations

import re

from iopipe.doctor.finding import Check, Finding, Patient, Rule, in_gib
from iopipe.errors import StorageError
from iopipe.storage.ring import Ring
from iopipe.topology.cgroups import find_group, memory_used
from iopipe.topology.mounts import read_mounts
from iopipe.topology.policy import get_policy
from iopipe.topology.tree import format_cpus

_LOCKED = Rule(
    name="limits.locked_memory",
    threshold="at least 1 GiB",
    why="io_uring's buffers and mlock count against it; CUDA's page locking mostly does not",
    who="admin",
    command="ulimit -l unlimited (Docker: --ulimit memlock=-1)",
)
_FILES = Rule(
    name="limits.open_files",
    threshold="at least 8192; fails under 256",
    why="each open shard, and each tensor that a torch worker sends, holds a descriptor",
    who="user",
    command="ulimit -n 65536",
)
_SHM = Rule(
    name="limits.shared_memory",
    threshold="at least 1 GiB; fails up to Docker's 64 MiB",
    why="torch's worker processes put batches into /dev/shm and die of SIGBUS when it is full",
    who="admin",
    command="docker run --shm-size=16g (or --ipc=host); Kubernetes: an emptyDir of medium Memory",
)
_QUOTA = Rule(
    name="limits.cpu_quota",
    threshold="none, or as much as the CPUs that may be used",
    why="threads are stopped for the rest of each period once the quota is used up, and programs "
    "that count CPUs start too many",
    who="admin",
    command="raise the CPU limit of the container, or plan fewer workers",
)
_THROTTLED = Rule(
    name="limits.cpu_throttled",
    threshold="no period; fails over 1 % of them",
    why="this group was stopped for using its quota up: every stall of that kind is a late batch",
    who="admin",
    command="raise the CPU limit of the container, or plan fewer workers",
)
_CGROUP_MEMORY = Rule(
    name="limits.memory",
    threshold="none, or 4 GiB left; fails under 512 MiB",
    why="the page cache counts too, and the kernel ends the process at the limit",
    who="admin",
    command="raise the memory limit of the container",
)
_CPUSET = Rule(
    name="limits.cpuset",
    threshold="CPUs on the node of each GPU, and at least one for each GPU",
    why="threads that run on another node fill buffers over the link between the sockets",
    who="admin",
    command="docker run --cpuset-cpus; Kubernetes: topology manager policy single-numa-node",
)
_RING = Rule(
    name="limits.io_uring",
    threshold="allowed",
    why="prefer='uring' reads many small pieces with the least CPU time",
    who="admin",
    command="sysctl kernel.io_uring_disabled=0, and a seccomp profile that has io_uring_setup",
)
_POLICY = Rule(
    name="limits.memory_policy",
    threshold="allowed where there are several nodes",
    why="without it buffers lie on whatever node was free",
    who="admin",
    command="docker run --cap-add SYS_NICE",
)


def locked_memory(here: Patient) -> Finding:
    soft = _limit(here, "Max locked memory")
    if soft is None:
        return _LOCKED.unknown("no /proc/self/limits")
    said = "unlimited" if soft == "unlimited" else in_gib(int(soft))
    is_enough = soft == "unlimited" or int(soft) >= 1 << 30
    return _LOCKED.ok(said) if is_enough else _LOCKED.warn(said)


def open_files(here: Patient) -> Finding:
    soft = _limit(here, "Max open files")
    if soft is None:
        return _FILES.unknown("no /proc/self/limits")
    if soft == "unlimited" or int(soft) >= 8192:
        return _FILES.ok(soft)
    return (_FILES.fail if int(soft) < 256 else _FILES.warn)(soft)


def shared_memory(here: Patient) -> Finding:
    """A tmpfs without 'size=' may grow to half of the memory, see tmpfs(5)."""
    mounts = [one for one in read_mounts(here.tree) if one.point == "/dev/shm"]
    memory = here.kilobytes("proc/meminfo", "MemTotal")
    if not mounts:
        return _SHM.unknown("no mount at /dev/shm")
    text = mounts[-1].option("size")
    size = memory // 2 if text is None and memory else _tmpfs_size(text or "", memory or 0)
    if size is None:
        return _SHM.unknown(f"size={text}")
    if size <= 64 << 20:
        return _SHM.fail(in_gib(size))
    return (_SHM.ok if size >= 1 << 30 else _SHM.warn)(in_gib(size))


def cpu_quota(here: Patient) -> Finding:
    quota, num_cpus = here.topology.limits.quota_cpus, len(here.topology.limits.cpus)
    if not num_cpus:
        return _QUOTA.unknown("the CPUs of this process are not known")
    if quota is None:
        return _QUOTA.ok("none")
    said = f"{quota:g} CPUs' time on {num_cpus} CPUs"
    return _QUOTA.ok(said) if quota >= num_cpus else _QUOTA.warn(said)


def cpu_throttled(here: Patient) -> Finding:
    group = find_group(here.tree, "cpu")
    stat = f"{group.folders[0]}/cpu.stat" if group and group.folders else ""
    periods = here.kilobytes(stat, "nr_periods") if stat else None
    throttled = here.kilobytes(stat, "nr_throttled") if stat else None
    if periods is None or throttled is None:
        return _THROTTLED.unknown("no cpu.stat with nr_throttled")
    said = f"{throttled} of {periods} periods"
    if throttled > 0.01 * periods:
        return _THROTTLED.fail(said)
    return _THROTTLED.warn(said) if throttled else _THROTTLED.ok(said)


def memory(here: Patient) -> Finding:
    limit, used = here.topology.limits.memory_bytes, memory_used(here.tree)
    if limit is None:
        return _CGROUP_MEMORY.ok("none")
    if used is None:
        return _CGROUP_MEMORY.unknown("the use of the group is not shown")
    said = f"{in_gib(limit - used)} left of {in_gib(limit)}"
    if limit - used < 512 << 20:
        return _CGROUP_MEMORY.fail(said)
    return (_CGROUP_MEMORY.ok if limit - used >= 4 << 30 else _CGROUP_MEMORY.warn)(said)


def cpuset(here: Patient) -> Finding:
    cpus, gpus = here.topology.limits.cpus, here.topology.gpus
    if not cpus:
        return _CPUSET.unknown("the CPUs of this process are not known")
    said = f"CPUs {format_cpus(cpus)}, {len(gpus)} GPUs"
    near = {here.topology.node_of_cpu.get(cpu) for cpu in cpus}
    with_cpus = {node.index for node in here.topology.nodes if node.cpus}
    far = [gpu.address for gpu in gpus if gpu.node in with_cpus and gpu.node not in near]
    if far:
        return _CPUSET.fail(f"{said}, none on the node of {', '.join(far)}")
    return _CPUSET.warn(said) if len(cpus) < len(gpus) else _CPUSET.ok(said)


def io_uring(here: Patient) -> Finding:
    """The switch first; then one ring is set up for real, which alone shows a seccomp profile."""
    switch = here.number("proc/sys/kernel/io_uring_disabled")
    if switch:
        return _RING.warn(f"kernel.io_uring_disabled is {switch}")
    if not here.tree.is_real:
        return _RING.unknown("not this machine") if switch is None else _RING.ok("0")
    try:
        Ring(2).close()
    except StorageError as error:
        return _RING.warn(error)
    return _RING.ok("a ring was set up")


def memory_policy(here: Patient) -> Finding:
    if len(here.topology.nodes) < 2:
        return _POLICY.ok("a single node")
    if not here.tree.is_real:
        return _POLICY.unknown("not this machine")
    try:
        return _POLICY.ok(f"get_mempolicy answers {get_policy().mode}")
    except StorageError as error:
        return _POLICY.warn(error)


def _limit(here: Patient, name: str) -> str | None:
    """The soft limit; columns of /proc/self/limits are parted by two blanks or more."""
    found = re.search(rf"^{name}\s\s+(\S+)", here.text("proc/self/limits") or "", re.MULTILINE)
    return found[1] if found else None


def _tmpfs_size(text: str, memory_bytes: int) -> int | None:
    match = re.fullmatch(r"(\d+)([kmg%]?)", text.lower())
    if match is None:
        return None
    number = int(match[1])
    if match[2] == "%":
        return number * memory_bytes // 100
    return number << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]]


CHECKS: tuple[Check, ...] = (
    locked_memory,
    open_files,
    shared_memory,
    cpu_quota,
    cpu_throttled,
    memory,
    cpuset,
    io_uring,
    memory_policy,
)

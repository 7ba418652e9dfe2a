"""Where the data lies: mount, filesystem, and the disks behind them.

Stands beside the other topics of `doctor.examine`.  Invariant: nothing is written, and of the data
no more is read than one aligned block.
"""

from __future__ import annotations

import mmap
import os
import statistics
from itertools import islice
from pathlib import Path

from iopipe.doctor.finding import Check, Finding, Patient, Rule, bracketed
from iopipe.doctor.pci import judge_link
from iopipe.topology.devices import disks_of
from iopipe.topology.machine import Disk
from iopipe.topology.mounts import Mount, mount_of

_LOCAL = frozenset({"ext4", "ext3", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs"})
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "beegfs", "gpfs", "wekafs"})
_VIRTUAL = ("vd", "xvd")
"""virtio and Xen: they call themselves spinning unless the host says otherwise."""
_MANY_FILES, _SMALL_BYTES = 1000, 1 << 20

_FILESYSTEM = Rule(
    name="storage.filesystem",
    threshold="a local or parallel filesystem; not overlay, FUSE, 9p or virtiofs",
    why="layers in between copy every byte once more and mostly have no direct reads",
    who="admin",
    command="mount the data itself into the container (docker run -v /data:/data:ro)",
)
_OPTIONS = Rule(
    name="storage.mount_options",
    threshold="relatime, noatime or ro; neither sync nor data=journal",
    why="strict access times write at every read; data=journal rules direct reads out",
    who="admin",
    command="mount -o remount,noatime MOUNT",
)
_DIRECT = Rule(
    name="storage.direct_io",
    threshold="O_DIRECT is possible",
    why="prefer='direct' and 'uring' read data larger than the memory without the page cache",
    who="admin",
    command="use ext4 or xfs for the data, or prefer='posix'",
)
_SMALL_FILES = Rule(
    name="storage.small_files",
    threshold=f"no more than {_MANY_FILES} files under 1 MiB in one folder",
    why="each sample costs an open and a seek of its own",
    who="user",
    command="iopipe shard FOLDER OUTPUT",
)
_CONNECTIONS = Rule(
    name="storage.nfs_connections",
    threshold="nconnect of at least 4, rsize of at least 1 MiB",
    why="one TCP connection carries a fraction of a fast network card",
    who="admin",
    command="mount -o remount does not do: unmount, then mount -o nconnect=8,rsize=1048576",
)
_SCHEDULER = Rule(
    name="storage.scheduler",
    threshold="none, mq-deadline or kyber on flash; mq-deadline or bfq on spinning disks",
    why="bfq costs CPU time for each request, and spinning disks need an order",
    who="admin",
    command="echo none > /sys/block/DISK/queue/scheduler",
)
_READ_AHEAD = Rule(
    name="storage.read_ahead",
    threshold="at least 512 KiB",
    why="what is mapped or read in small pieces through the page cache comes in pieces of this "
    "size; direct reads do not use it",
    who="admin",
    command="blockdev --setra 8192 /dev/DISK (sectors of 512 bytes: 4 MiB)",
)
_SPINNING = Rule(
    name="storage.medium",
    threshold="flash",
    why="a spinning disk gives some hundred random reads a second",
    who="cloud",
    command="copy the data to local flash, or read whole shards in their order",
)
_LINK = Rule(
    name="storage.link",
    threshold="the width and speed that disk and slot can do",
    why="lost lanes are lost bandwidth",
    who="admin",
    command="lspci -vv -s ADDRESS; another slot or BIOS setting",
)
_NEAR = Rule(
    name="storage.node",
    threshold="the node of a GPU",
    why="reads cross the link between the sockets on their way to the GPU",
    who="admin",
    command="prefer the GPUs of that node for what is read from here",
)


def filesystem(here: Patient) -> Finding:
    mount = _mount(here)
    if mount is None:
        return _FILESYSTEM.unknown("no /proc/self/mountinfo")
    said = f"{mount.kind} at {mount.point}"
    is_good = mount.kind in _LOCAL | _NETWORK
    return _FILESYSTEM.ok(said) if is_good else _FILESYSTEM.warn(said)


def mount_options(here: Patient) -> Finding:
    mount = _mount(here)
    if mount is None:
        return _OPTIONS.unknown("no /proc/self/mountinfo")
    options = mount.options | mount.super_options
    bad = sorted(options & {"sync", "dirsync", "data=journal"})
    if not options & {"relatime", "noatime", "ro"} and mount.kind in _LOCAL:
        bad.append("strictatime")
    if bad:
        command = (_OPTIONS.command).replace("MOUNT", mount.point)
        return _OPTIONS.warn(", ".join(bad), command=command)
    return _OPTIONS.ok(", ".join(sorted(mount.options)))


def direct_io(here: Patient) -> Finding:
    """One block of a file is read: some filesystems take the flag and refuse the read."""
    file = here.sample_file()
    if file is None:
        return _DIRECT.unknown(f"no file at {here.path}: give one of the data")
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as room:
            descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                os.preadv(descriptor, [room], 0)
            finally:
                os.close(descriptor)
    except PermissionError as error:
        return _DIRECT.unknown(f"{str(file)!r}: {(error.strerror or '').lower()}")
    except OSError as error:
        return _DIRECT.warn(f"{str(file)!r}: {(error.strerror or '').lower()}")
    # As Python writes it: a hostile name must not steer the terminal.
    return _DIRECT.ok(f"a block of {file.name!r} was read")


def small_files(here: Patient) -> Finding:
    folder = Path(here.path)
    if not folder.is_dir():
        return (
            _SMALL_FILES.ok("a single file")
            if folder.is_file()
            else _SMALL_FILES.unknown(f"nothing at {here.path}")
        )
    try:
        with os.scandir(folder) as entries:
            some = islice((one for one in entries if one.is_file()), 10 * _MANY_FILES)
            sizes = [one.stat().st_size for one in some]
    except OSError as error:  # not for this user, or files that went meanwhile
        return _SMALL_FILES.unknown(f"{here.path!r}: {(error.strerror or '').lower()}")
    if not sizes:
        return _SMALL_FILES.ok("no files in this folder itself")
    middle = int(statistics.median(sizes))
    said = f"{len(sizes)} files looked at, half of them up to {middle} bytes"
    is_many = len(sizes) > _MANY_FILES and middle < _SMALL_BYTES
    return _SMALL_FILES.warn(said) if is_many else _SMALL_FILES.ok(said)


def nfs_connections(here: Patient) -> Finding:
    mount = _mount(here)
    if mount is None:
        return _CONNECTIONS.unknown("no /proc/self/mountinfo")
    if mount.kind not in {"nfs", "nfs4"}:
        return _CONNECTIONS.ok("no NFS")
    connections, size = mount.option("nconnect") or "1", mount.option("rsize") or "0"
    said = f"nconnect={connections}, rsize={size}"
    is_good = int(connections) >= 4 and int(size) >= 1 << 20
    return _CONNECTIONS.ok(said) if is_good else _CONNECTIONS.warn(said)


def scheduler(here: Patient) -> list[Finding]:
    return [_scheduler(here, disk) for disk in _disks(here)] or [_no_disk(_SCHEDULER)]


def _scheduler(here: Patient, disk: Disk) -> Finding:
    text = here.text(f"sys/block/{disk.name}/queue/scheduler")
    if not text:
        return _SCHEDULER.unknown(f"{disk.name}: no scheduler shown")
    chosen = bracketed(text) or text
    spins = here.number(f"sys/block/{disk.name}/queue/rotational") == 1
    good = {"mq-deadline", "bfq"} if spins else {"none", "mq-deadline", "kyber"}
    command = f"echo {'mq-deadline' if spins else 'none'} > /sys/block/{disk.name}/queue/scheduler"
    said = f"{disk.name}: {chosen}"
    return _SCHEDULER.ok(said) if chosen in good else _SCHEDULER.warn(said, command=command)


def read_ahead(here: Patient) -> list[Finding]:
    """Of what is mounted where it has its own (network, btrfs), else of the disks below."""
    mount = _mount(here)
    own = here.number(f"sys/class/bdi/{mount.device}/read_ahead_kb") if mount else None
    if mount is not None and own is not None:
        return [
            _judge_read_ahead(
                mount.source, own, f"echo 4096 > /sys/class/bdi/{mount.device}/read_ahead_kb"
            )
        ]
    found = []
    for disk in _disks(here):
        value = here.number(f"sys/block/{disk.name}/queue/read_ahead_kb")
        if value is not None:
            command = _READ_AHEAD.command.replace("DISK", disk.name)
            found.append(_judge_read_ahead(disk.name, value, command))
    return found or [_no_disk(_READ_AHEAD)]


def _judge_read_ahead(name: str, value: int, command: str) -> Finding:
    said = f"{name}: {value} KiB"
    return _READ_AHEAD.ok(said) if value >= 512 else _READ_AHEAD.warn(said, command=command)


def medium(here: Patient) -> list[Finding]:
    found = []
    for disk in _disks(here):
        spins = here.number(f"sys/block/{disk.name}/queue/rotational")
        if spins is None:
            found.append(_SPINNING.unknown(f"{disk.name}: the kernel does not say"))
        elif spins and disk.name.startswith(_VIRTUAL):
            found.append(_SPINNING.unknown(f"{disk.name}: a virtual disk, whatever is behind it"))
        elif spins:
            found.append(_SPINNING.warn(f"{disk.name}: spinning"))
        else:
            found.append(_SPINNING.ok(f"{disk.name}: flash"))
    return found or [_no_disk(_SPINNING)]


def link(here: Patient) -> list[Finding]:
    found = [
        judge_link(here, _LINK, disk.address, disk.name, idles=False)
        for disk in _disks(here)
        if disk.address is not None
    ]
    return found or [_no_disk(_LINK)]


def node(here: Patient) -> Finding:
    disks = [disk for disk in _disks(here) if disk.node is not None]
    gpu_nodes = {gpu.node for gpu in here.topology.gpus if gpu.node is not None}
    if len(here.topology.nodes) < 2:
        return _NEAR.ok("a single node")
    if not disks or not gpu_nodes:
        return _NEAR.unknown("the node of the disks or of the GPUs is not known")
    places = ", ".join(f"{disk.name} on node {disk.node}" for disk in disks)
    numbers = ", ".join(map(str, sorted(gpu_nodes)))
    said = f"{places}; GPUs on node {numbers}"
    is_near = all(disk.node in gpu_nodes for disk in disks)
    return _NEAR.ok(said) if is_near else _NEAR.warn(said)


def _mount(here: Patient) -> Mount | None:
    return mount_of(here.tree, here.path)


def _disks(here: Patient) -> tuple[Disk, ...]:
    return disks_of(here.tree, here.path)


def _no_disk(rule: Rule) -> Finding:
    return rule.unknown("no disk of this machine is known to be behind the path")


CHECKS: tuple[Check, ...] = (
    filesystem,
    mount_options,
    direct_io,
    small_files,
    nfs_connections,
    scheduler,
    read_ahead,
    medium,
    link,
    node,
)

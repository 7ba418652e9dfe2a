"""GPUs, disks and network cards, and the node that each of them hangs on.

Reads sysfs for `topology.read`; neither CUDA nor the driver is asked.  Invariant: a device's node
is that of the nearest PCI device above it.
"""

from __future__ import annotations

import re

from iopipe.topology.machine import Disk, Gpu, Nic
from iopipe.topology.mounts import Mount, mount_of
from iopipe.topology.tree import Tree

_PCI = "sys/bus/pci/devices"
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NVIDIA, _DISPLAY = "0x10de", "0x03"
"""Vendor, and the class that VGA and 3D controllers begin with.  Source: the PCI ID database."""


def read_gpus(tree: Tree) -> tuple[Gpu, ...]:
    """NVIDIA's, by address.  Where the driver is loaded, those that it shows to this process: a
    container may have fewer than the bus."""
    shown = tree.names("proc/driver/nvidia/gpus")
    found = shown or [name for name in tree.names(_PCI) if _is_gpu(tree, name)]
    addresses = sorted(address.lower() for address in found)
    return tuple(
        Gpu(address=one, node=node_of_address(tree, one), name=_model(tree, one))
        for one in addresses
    )


def read_disks(tree: Tree) -> tuple[Disk, ...]:
    """Those with a device behind them: no loops, memory disks or joined ones."""
    names = tree.names("sys/block")
    return tuple(disk for name in names if (disk := _physical(tree, name)) is not None)


def read_nics(tree: Tree) -> tuple[Nic, ...]:
    """Network cards, also InfiniBand's, without virtual ones."""
    found = []
    for name in tree.names("sys/class/net"):
        place = tree.real(f"sys/class/net/{name}") or ""
        if tree.at(f"sys/class/net/{name}/device").exists():
            speed = tree.number(f"sys/class/net/{name}/speed")
            address = _address_in(place)
            found.append(
                Nic(
                    name=name,
                    node=_node(tree, address),
                    address=address,
                    speed_mbps=speed if speed is not None and speed > 0 else None,
                )
            )
    return tuple(found)


def disks_of(tree: Tree, path: str) -> tuple[Disk, ...]:
    """The disks that the bytes of `path` come from: through partitions, device-mapper, RAID and
    loops.  () where no disk of this machine is behind it (network, memory, overlay)."""
    return _disks_of(tree, path, depth=0)


def node_of_address(tree: Tree, address: str) -> int | None:
    node = tree.number(f"{_PCI}/{address}/numa_node")
    return node if node is not None and node >= 0 else None


def _disks_of(tree: Tree, path: str, *, depth: int) -> tuple[Disk, ...]:
    mount = mount_of(tree, path)
    name = None if mount is None else _block_name(tree, mount)
    return () if name is None else _below(tree, name, depth=depth)


def _block_name(tree: Tree, mount: Mount) -> str | None:
    """btrfs and others have numbers of their own, and name the device as their source."""
    place = tree.real(f"sys/dev/block/{mount.device}")
    if place is None and mount.source.startswith("/dev/"):
        source = tree.real(mount.source) or mount.source
        place = tree.real(f"sys/class/block/{source.rsplit('/', 1)[-1]}")
    return None if place is None else place.rsplit("/", 1)[-1]


def _below(tree: Tree, name: str, *, depth: int) -> tuple[Disk, ...]:
    """`depth` ends a circle of loops, which only a broken tree can hold."""
    here = f"sys/class/block/{name}"
    if depth > 8:
        return ()
    if tree.text(f"{here}/partition") is not None:
        return _below(tree, (tree.real(here) or "").split("/")[-2], depth=depth + 1)
    if members := tree.names(f"{here}/slaves"):
        below = [disk for one in members for disk in _below(tree, one, depth=depth + 1)]
        return tuple({disk.name: disk for disk in below}.values())
    if backing := tree.text(f"{here}/loop/backing_file"):
        return _disks_of(tree, backing, depth=depth + 1)
    disk = _physical(tree, name)
    return () if disk is None else (disk,)


def _physical(tree: Tree, name: str) -> Disk | None:
    place = tree.real(f"sys/class/block/{name}") or tree.real(f"sys/block/{name}")
    if place is None or tree.names(f"{place}/slaves"):
        return None
    if "/virtual/" in place and "/nvme-subsystem/" not in place:
        return None
    address = _address_in(place) or _controller(tree, place)
    return Disk(name=name, node=_node(tree, address), address=address)


def _controller(tree: Tree, place: str) -> str | None:
    """Of an NVMe namespace with several ways to it: the first controller of its subsystem, which
    is a link beside it (/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0)."""
    if "/nvme-subsystem/" not in place:
        return None
    parent = place.rsplit("/", 1)[0]
    for name in tree.names(parent, "nvme*"):
        if re.fullmatch(r"nvme\d+", name) and (real := tree.real(f"{parent}/{name}")):
            return _address_in(real)
    return None


def _address_in(place: str) -> str | None:
    """The last PCI address of a path of /sys/devices: the device's own."""
    found = [part for part in place.split("/") if _ADDRESS.fullmatch(part)]
    return found[-1] if found else None


def _node(tree: Tree, address: str | None) -> int | None:
    return None if address is None else node_of_address(tree, address)


def _is_gpu(tree: Tree, address: str) -> bool:
    kind = tree.text(f"{_PCI}/{address}/class") or ""
    return tree.text(f"{_PCI}/{address}/vendor") == _NVIDIA and kind.startswith(_DISPLAY)


def _model(tree: Tree, address: str) -> str:
    said = tree.text(f"proc/driver/nvidia/gpus/{address}/information") or ""
    match = re.search(r"^Model:\s*(.+)$", said, re.MULTILINE)
    return match[1].strip() if match else ""

"""What files say about the GPUs: their place, their links, and the way of the bytes to them.

Stands beside the other topics of `doctor.examine`.  Invariant: neither CUDA nor NVML is opened
here; without a GPU every finding is `unknown`.
"""

from __future__ import annotations

import re

from iopipe.doctor.finding import Check, Finding, Patient, Rule, in_gib
from iopipe.doctor.pci import judge_link, redirecting_bridges
from iopipe.storage.gds_probe import probe

_PCI = "sys/bus/pci/devices"
_NO_GPU = "no NVIDIA GPU is shown to this process"

_DRIVER = Rule(
    name="gpu.driver",
    threshold="loaded where there is a GPU",
    why="without the driver there is nothing to feed",
    who="admin",
    command="modprobe nvidia; in a container: docker run --gpus all",
)
_NODE = Rule(
    name="gpu.node",
    threshold="known where there are several nodes",
    why="without it nothing is bound, and half of the buffers lie on the wrong node",
    who="cloud",
    command="switch ACPI's SLIT and SRAT tables on in the BIOS; virtual machines: expose NUMA",
)
_LINK = Rule(
    name="gpu.link",
    threshold="the width and speed that GPU and slot can do",
    why="batches cross this link; half of the lanes are half of the bandwidth",
    who="admin",
    command="lspci -vv -s ADDRESS; reseat the card or change the BIOS setting",
)
_BAR = Rule(
    name="gpu.bar1",
    threshold="more than 256 MiB",
    why="disks and network cards reach GPU memory through this window; GPUDirect pins it there",
    who="admin",
    command="switch 'above 4G decoding' and 'resizable BAR' on in the BIOS",
)
_IOMMU = Rule(
    name="gpu.iommu",
    threshold="off, or pass-through (identity)",
    why="translated addresses slow reads from disk to GPU down, or rule them out",
    who="admin",
    command="boot with iommu=pt",
)
_ACS = Rule(
    name="gpu.acs",
    threshold="no bridge above the GPU redirects",
    why="what disk and GPU send each other goes over the root complex instead of the switch",
    who="admin",
    command="setpci -s BRIDGE ECAP_ACS+6.w=0 (as root, after each boot; not for virtual machines)",
)
_GDS = Rule(
    name="gpu.gpudirect",
    threshold="gpudirect",
    why="in compat mode kvikio copies through host memory: correct, and no faster than the slots",
    who="admin",
    command="load nvidia-fs or set up PCI P2PDMA; mount /run/udev; use ext4, xfs or NFS over RDMA",
)
_COUNTERS = Rule(
    name="gpu.counters",
    threshold="open to all users",
    why="Nsight needs them to say which kernel waits; training does not",
    who="admin",
    command="options nvidia NVreg_RestrictProfilingToAdminUsers=0 in /etc/modprobe.d",
)
_VISIBLE = Rule(
    name="gpu.visible",
    threshold="CUDA_VISIBLE_DEVICES hides no GPU by accident (it is unset or names some)",
    why="an empty value hides all GPUs, and everything then runs on the CPU",
    who="user",
    command="unset CUDA_VISIBLE_DEVICES",
)


def driver(here: Patient) -> Finding:
    version = here.text("proc/driver/nvidia/version")
    if version is not None:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", version)
        return _DRIVER.ok(found[1] if found else version.splitlines()[0])
    if here.topology.gpus:
        return _DRIVER.fail(f"{len(here.topology.gpus)} GPUs and no driver")
    return _DRIVER.unknown(_NO_GPU)


def visible(here: Patient) -> Finding:
    value = here.environment.get("CUDA_VISIBLE_DEVICES")
    if not here.topology.gpus:
        return _VISIBLE.unknown(_NO_GPU)
    if value is None:
        return _VISIBLE.ok("unset")
    is_hidden = value.strip() in {"", "-1", "NoDevFiles"}
    return (_VISIBLE.fail if is_hidden else _VISIBLE.ok)(repr(value))


def node(here: Patient) -> list[Finding]:
    if here.topology.gpus and len(here.topology.nodes) < 2:
        return [_NODE.ok("a single node")]
    found = []
    for gpu in here.topology.gpus:
        said = f"{gpu.address}: {'not known (-1)' if gpu.node is None else f'node {gpu.node}'}"
        found.append(_NODE.warn(said) if gpu.node is None else _NODE.ok(said))
    return found or [_NODE.unknown(_NO_GPU)]


def link(here: Patient) -> list[Finding]:
    found = [
        judge_link(here, _LINK, gpu.address, gpu.address, idles=True) for gpu in here.topology.gpus
    ]
    return found or [_LINK.unknown(_NO_GPU)]


def bar1(here: Patient) -> list[Finding]:
    return [_bar1(here, gpu.address) for gpu in here.topology.gpus] or [_BAR.unknown(_NO_GPU)]


def _bar1(here: Patient, address: str) -> Finding:
    """'start end flags' a line of `resource`; the second is the window that NVIDIA calls BAR1."""
    lines = (here.text(f"{_PCI}/{address}/resource") or "").splitlines()
    if len(lines) < 2:
        return _BAR.unknown(f"{address}: no resources shown")
    start, end = (int(word, 16) for word in lines[1].split()[:2])
    size = end - start + 1 if end else 0
    said = f"{address}: {in_gib(size)}"
    return _BAR.ok(said) if size > 256 << 20 else _BAR.warn(said)


def iommu(here: Patient) -> list[Finding]:
    return [_iommu(here, gpu.address) for gpu in here.topology.gpus] or [_IOMMU.unknown(_NO_GPU)]


def _iommu(here: Patient, address: str) -> Finding:
    """The type of a device's group: 'identity', or 'DMA' and 'DMA-FQ' where it translates."""
    if here.tree.real(f"{_PCI}/{address}/iommu_group") is None:
        is_shown = here.tree.real(f"{_PCI}/{address}") is not None
        return (_IOMMU.ok if is_shown else _IOMMU.unknown)(f"{address}: in no group")
    kind = here.text(f"{_PCI}/{address}/iommu_group/type")
    if kind is None:
        return _IOMMU.unknown(f"{address}: the kernel does not say of which type its group is")
    return (_IOMMU.ok if kind == "identity" else _IOMMU.warn)(f"{address}: {kind}")


def acs(here: Patient) -> list[Finding]:
    return [_acs(here, gpu.address) for gpu in here.topology.gpus] or [_ACS.unknown(_NO_GPU)]


def _acs(here: Patient, address: str) -> Finding:
    bridges = redirecting_bridges(here, address)
    if bridges is None:
        return _ACS.unknown(f"{address}: only root may read the bridges' configuration")
    if bridges:
        command = _ACS.command.replace("BRIDGE", bridges[0])
        return _ACS.warn(f"{address}: {', '.join(bridges)} redirect", command=command)
    return _ACS.ok(f"{address}: none")


def gpudirect(here: Patient) -> Finding:
    """Asked by a read of kvikio's in a process of its own, which takes a second or two."""
    file = here.sample_file()
    if not here.topology.gpus:
        return _GDS.unknown(_NO_GPU)
    if file is None:
        return _GDS.unknown(f"no file at {here.path}: give one of the data")
    found = probe(str(file), root=here.tree.root)
    if found.kind == "unavailable":
        return _GDS.unknown(found)
    return _GDS.ok(found) if found.kind == "gpudirect" else _GDS.warn(found)


def counters(here: Patient) -> Finding:
    said = here.text("proc/driver/nvidia/params") or ""
    match = re.search(r"^RmProfilingAdminOnly:\s*(\d+)$", said, re.MULTILINE)
    if match is None:
        return _COUNTERS.unknown("the driver shows no RmProfilingAdminOnly")
    return _COUNTERS.ok("open") if match[1] == "0" else _COUNTERS.warn("for root only")


CHECKS: tuple[Check, ...] = (
    driver,
    visible,
    node,
    link,
    bar1,
    iommu,
    acs,
    gpudirect,
    counters,
)

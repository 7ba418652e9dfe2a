"""What a machine is made of, as far as the way of the bytes is concerned: frozen values.

Filled by `topology.read`; asked by `plan`, the doctor and the command.  Invariant: a node that the
kernel does not know (-1 in sysfs) is None here, never node 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from iopipe.errors import PipelineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A NUMA node: memory, and mostly CPUs, at one distance from everything else."""

    index: int
    cpus: tuple[int, ...]
    """Those that are online; empty for memory of a device (a GPU's on some machines, CXL)."""
    memory_bytes: int
    distances: Mapping[int, int]
    """To each online node, in the firmware's units: 10 is this node itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU that this process may see."""

    address: str
    """On the PCI bus, '0000:3b:00.0': lower case, four digits of domain, as sysfs writes it."""
    node: int | None
    name: str
    """What the driver calls it, '' where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A block device with a controller behind it, not a partition."""

    name: str
    """As in /sys/block."""
    node: int | None
    address: str | None
    """Of its controller on the PCI bus; None where it hangs on none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network card's port."""

    name: str
    node: int | None
    address: str | None
    speed_mbps: int | None
    """Megabits a second; None where there is no link or the driver does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What of the machine this process may use."""

    cpus: tuple[int, ...]
    """Of its affinity mask, its cpusets and those online, what is in all of them."""
    memory_nodes: tuple[int, ...]
    """From which it may take memory."""
    quota_cpus: float | None
    """How many CPUs' time it gets, the least of its cgroup and those above; None: no limit."""
    memory_bytes: int | None
    """The same for memory."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A machine as one process sees it, see `read_topology`."""

    nodes: tuple[Node, ...]
    """Online ones by index, which may have holes; empty where the kernel has no NUMA."""
    cores: tuple[tuple[int, ...], ...]
    """The online CPUs that share one core, by their first; usually one or two."""
    isolated: tuple[int, ...]
    """CPUs among which the kernel does not balance load (isolcpus)."""
    gpus: tuple[Gpu, ...]
    """By address, which is the order of CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    limits: Limits

    @cached_property
    def node_of_cpu(self) -> dict[int, int]:
        return {cpu: node.index for node in self.nodes for cpu in node.cpus}

    def node(self, index: int) -> Node:
        for node in self.nodes:
            if node.index == index:
                return node
        raise PipelineError(
            f"there is no node {index}: this machine has {[node.index for node in self.nodes]}"
        )

    def gpu(self, which: int | str) -> Gpu:
        """By its place among `gpus`, or by its address; `PipelineError` where there is none."""
        if isinstance(which, int) and 0 <= which < len(self.gpus):
            return self.gpus[which]
        for gpu in self.gpus:
            if gpu.address == which:
                return gpu
        raise PipelineError(
            f"there is no GPU {which!r}: give 0 to {len(self.gpus) - 1} or an address out of "
            f"{[gpu.address for gpu in self.gpus]}"
            if self.gpus
            else f"there is no GPU {which!r}: this machine has none; give gpu=None"
        )


def pci_address(domain: int, bus: int, device: int, function: int = 0) -> str:
    """The address from the three numbers that torch's device properties hold
    (`pci_domain_id`, `pci_bus_id`, `pci_device_id`)."""
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"

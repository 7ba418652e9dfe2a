"""Machines made of files: the parts of /proc and /sys that topology and doctor read."""

from __future__ import annotations

import os
from pathlib import Path

ROOT_MOUNT = "27 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw"
_NODES, _CPUS, _PCI = "sys/devices/system/node", "sys/devices/system/cpu", "sys/bus/pci/devices"


class FakeMachine:
    """Writes below `root`, which is then given to what is tested."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write({"proc/self/mountinfo": ROOT_MOUNT})

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def link(self, name: str, target: str) -> None:
        """Relative, as sysfs has them."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.root / target).mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(self.root / target, path.parent))

    def nodes(
        self,
        cpus: dict[int, str],
        *,
        online_cpus: str,
        distances: dict[int, str] | None = None,
        no_memory: tuple[int, ...] = (),
    ) -> None:
        """`cpus`: the CPU list of each node; `distances`: their lines, 10 and 21 without."""
        self.write(
            {
                f"{_NODES}/online": ",".join(map(str, cpus)),
                f"{_CPUS}/online": online_cpus,
            }
        )
        for node, text in cpus.items():
            total = 0 if node in no_memory else 1024
            usual = " ".join("10" if other == node else "21" for other in cpus)
            self.write(
                {
                    f"{_NODES}/node{node}/cpulist": text,
                    f"{_NODES}/node{node}/meminfo": f"Node {node} MemTotal:  {total} kB\n",
                    f"{_NODES}/node{node}/distance": (distances or {}).get(node, usual),
                }
            )

    def siblings(self, *cores: tuple[int, ...]) -> None:
        for core in cores:
            for cpu in core:
                text = ",".join(map(str, core))
                self.write({f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list": text})

    def gpu(self, address: str, *, node: int, kind: str = "0x030200") -> None:
        place = f"sys/devices/pci0000:00/{address}"
        self.link(f"{_PCI}/{address}", place)
        self.write(
            {
                f"{place}/vendor": "0x10de\n",
                f"{place}/class": f"{kind}\n",
                f"{place}/numa_node": f"{node}\n",
            }
        )

    def pci(self, address: str, *, node: int) -> str:
        """A device that is no GPU; where it is in sysfs."""
        place = f"sys/devices/pci0000:00/{address}"
        self.link(f"{_PCI}/{address}", place)
        self.write({f"{place}/vendor": "0x144d\n", f"{place}/numa_node": f"{node}\n"})
        return place

    def disk(self, place: str, name: str, number: str, *, partitions: dict[str, str]) -> None:
        """A disk at `place`/block, and its partitions with their numbers."""
        here = f"{place}/block/{name}"
        for path, one, device in (
            (here, name, number),
            *((f"{here}/{part}", part, number) for part, number in partitions.items()),
        ):
            self.link(f"sys/class/block/{one}", path)
            self.link(f"sys/dev/block/{device}", path)
        for part in partitions:
            self.write({f"{here}/{part}/partition": "1"})
        self.link(f"sys/block/{name}", here)

    def two_nodes(self) -> None:
        """16 CPUs on 8 cores, siblings 8 apart; a GPU on each node."""
        self.nodes({0: "0-3,8-11", 1: "4-7,12-15"}, online_cpus="0-15")
        self.siblings(*((cpu, cpu + 8) for cpu in range(8)))
        self.gpu("0000:3b:00.0", node=0)
        self.gpu("0000:af:00.0", node=1)

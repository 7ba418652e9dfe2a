"""What is read from /proc and /sys, on machines made of files and on this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.tree import ROOT_MOUNT, FakeMachine
from hypothesis import given
from hypothesis import strategies as st

import iopipe
from iopipe.topology import disks_of, pci_address, read_topology
from iopipe.topology.mounts import read_mounts
from iopipe.topology.tree import Tree, format_cpus, parse_cpus


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@given(st.sets(st.integers(0, 300)))
def test_a_list_of_cpus_is_read_as_it_is_written(cpus: set[int]) -> None:
    assert parse_cpus(format_cpus(tuple(cpus))) == tuple(sorted(cpus))


def test_lists_of_cpus_as_the_manual_page_has_them() -> None:
    assert parse_cpus("0-4,9\n") == (0, 1, 2, 3, 4, 9)
    assert parse_cpus("") == ()
    assert format_cpus((0, 1, 2, 8)) == "0-2,8"
    with pytest.raises(iopipe.DataError, match="'0-x' is no list of CPUs"):
        parse_cpus("0-x")


def test_this_machine_is_read_as_python_and_the_kernel_see_it() -> None:
    found = read_topology()
    assert set(found.limits.cpus) == os.sched_getaffinity(0)
    assert {cpu for core in found.cores for cpu in core} >= os.sched_getaffinity(0)
    assert len({cpu for core in found.cores for cpu in core}) == os.cpu_count()


def test_two_nodes_with_siblings_and_gpus(machine: FakeMachine) -> None:
    machine.two_nodes()
    found = read_topology(root=machine.root)
    assert [(node.index, node.cpus) for node in found.nodes] == [
        (0, (0, 1, 2, 3, 8, 9, 10, 11)),
        (1, (4, 5, 6, 7, 12, 13, 14, 15)),
    ]
    assert found.nodes[0].memory_bytes == 1 << 20
    assert found.nodes[1].distances == {0: 21, 1: 10}
    assert found.cores == tuple((cpu, cpu + 8) for cpu in range(8))
    assert [(gpu.address, gpu.node) for gpu in found.gpus] == [
        ("0000:3b:00.0", 0),
        ("0000:af:00.0", 1),
    ]
    assert found.node_of_cpu[12] == 1


def test_holes_in_the_numbering_shift_no_distance(machine: FakeMachine) -> None:
    machine.nodes({0: "0", 3: "1", 12: "2"}, online_cpus="0-2", distances={3: "20 10 30"})
    found = read_topology(root=machine.root)
    assert [node.index for node in found.nodes] == [0, 3, 12]
    assert found.node(3).distances == {0: 20, 3: 10, 12: 30}
    with pytest.raises(iopipe.PipelineError, match=r"no node 1: this machine has \[0, 3, 12\]"):
        found.node(1)


def test_offline_cpus_are_no_part_of_anything(machine: FakeMachine) -> None:
    machine.nodes({0: "0-3"}, online_cpus="0-1,3")
    machine.siblings((0, 2), (1, 3))
    found = read_topology(root=machine.root)
    assert found.nodes[0].cpus == (0, 1, 3)
    assert found.cores == ((0,), (1, 3))
    assert found.limits.cpus == (0, 1, 3)


def test_eight_nodes_and_one_without_cpus(machine: FakeMachine) -> None:
    machine.nodes({node: "" if node == 7 else str(node) for node in range(8)}, online_cpus="0-6")
    found = read_topology(root=machine.root)
    assert len(found.nodes) == 8
    assert found.node(7).cpus == ()


def test_an_unknown_node_is_none_and_never_zero(machine: FakeMachine) -> None:
    machine.two_nodes()
    machine.gpu("0000:00:05.0", node=-1)
    assert read_topology(root=machine.root).gpus[0].node is None


def test_only_nvidia_display_controllers_are_gpus(machine: FakeMachine) -> None:
    machine.gpu("0000:01:00.0", node=0, kind="0x030000")
    machine.gpu("0000:01:00.1", node=0, kind="0x040300")  # its sound
    machine.pci("0000:02:00.0", node=0)
    assert [gpu.address for gpu in read_topology(root=machine.root).gpus] == ["0000:01:00.0"]


def test_a_container_sees_the_gpus_that_the_driver_shows(machine: FakeMachine) -> None:
    machine.two_nodes()
    said = "Model: \t\t NVIDIA H200\nIRQ:   72\n"
    machine.write({"proc/driver/nvidia/gpus/0000:af:00.0/information": said})
    found = read_topology(root=machine.root).gpus
    assert [(gpu.address, gpu.node, gpu.name) for gpu in found] == [
        ("0000:af:00.0", 1, "NVIDIA H200")
    ]


def test_nothing_at_all_is_an_empty_machine(tmp_path: Path) -> None:
    found = read_topology(root=tmp_path)
    assert (found.nodes, found.cores, found.gpus, found.disks, found.nics) == ((),) * 5
    assert (found.limits.cpus, found.limits.quota_cpus) == ((), None)


def test_network_cards_with_their_nodes_and_without_virtual_ones(machine: FakeMachine) -> None:
    place = machine.pci("0000:17:00.0", node=1)
    machine.link("sys/class/net/ib0", f"{place}/net/ib0")
    machine.link(f"{place}/net/ib0/device", place)
    machine.write({f"{place}/net/ib0/speed": "400000\n"})
    machine.link("sys/class/net/lo", "sys/devices/virtual/net/lo")
    found = read_topology(root=machine.root).nics
    assert [(nic.name, nic.node, nic.speed_mbps) for nic in found] == [("ib0", 1, 400_000)]


# ---- from a path to its disks --------------------------------------------------------


def _mount(machine: FakeMachine, *lines: str) -> None:
    machine.write({"proc/self/mountinfo": "\n".join((ROOT_MOUNT, *lines))})


def _nvme(machine: FakeMachine, name: str, address: str, number: int, *, node: int) -> None:
    place = machine.pci(address, node=node)
    parts = {f"{name}p1": f"259:{number + 1}"}
    machine.disk(f"{place}/nvme/{name[:5]}", name, f"259:{number}", partitions=parts)


def _behind(machine: FakeMachine, path: str) -> list[tuple[str, int | None]]:
    return [(disk.name, disk.node) for disk in disks_of(Tree(machine.root), path)]


def test_a_partition_leads_to_its_disk(machine: FakeMachine) -> None:
    _nvme(machine, "nvme1n1", "0000:5e:00.0", 4, node=1)
    _mount(machine, r"30 27 259:5 / /scratch\040data rw,noatime - xfs /dev/nvme1n1p1 rw")
    assert _behind(machine, "/scratch data/set/0.tar") == [("nvme1n1", 1)]
    assert [disk.name for disk in read_topology(root=machine.root).disks] == ["nvme1n1"]


def test_a_volume_over_two_disks_leads_to_both(machine: FakeMachine) -> None:
    _nvme(machine, "nvme0n1", "0000:5e:00.0", 0, node=0)
    _nvme(machine, "nvme1n1", "0000:5f:00.0", 4, node=1)
    dm = "sys/devices/virtual/block/dm-0"
    machine.link("sys/class/block/dm-0", dm)
    machine.link("sys/dev/block/253:0", dm)
    for part in ("nvme0n1p1", "nvme1n1p1"):
        machine.link(f"{dm}/slaves/{part}", f"sys/class/block/{part}")
    _mount(machine, "30 27 253:0 / /data rw - ext4 /dev/mapper/all rw")
    assert _behind(machine, "/data/x") == [("nvme0n1", 0), ("nvme1n1", 1)]


def test_a_loop_leads_to_the_disk_of_its_file(machine: FakeMachine) -> None:
    _nvme(machine, "nvme0n1", "0000:5e:00.0", 0, node=0)
    loop = "sys/devices/virtual/block/loop0"
    machine.link("sys/class/block/loop0", loop)
    machine.link("sys/dev/block/7:0", loop)
    machine.write({f"{loop}/loop/backing_file": "/images/set.squashfs\n"})
    _mount(
        machine,
        "30 27 259:1 / /images rw - ext4 /dev/nvme0n1p1 rw",
        "31 27 7:0 / /set ro - squashfs /dev/loop0 ro",
    )
    assert _behind(machine, "/set/a") == [("nvme0n1", 0)]


def test_a_multipath_namespace_leads_to_its_controller(machine: FakeMachine) -> None:
    controller = f"{machine.pci('0000:5e:00.0', node=1)}/nvme/nvme0"
    subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    machine.link(f"{subsystem}/nvme0", controller)
    machine.link("sys/class/block/nvme0n1", f"{subsystem}/nvme0n1")
    machine.link("sys/dev/block/259:0", f"{subsystem}/nvme0n1")
    _mount(machine, "30 27 259:0 / /data rw - xfs /dev/nvme0n1 rw")
    assert _behind(machine, "/data/x") == [("nvme0n1", 1)]


def test_btrfs_is_found_by_its_source(machine: FakeMachine) -> None:
    _nvme(machine, "nvme0n1", "0000:5e:00.0", 0, node=0)
    _mount(machine, "30 27 0:45 /@home /home rw - btrfs /dev/nvme0n1p1 rw,subvol=/@home")
    assert _behind(machine, "/home/x") == [("nvme0n1", 0)]


def test_network_and_overlay_have_no_disk_here(machine: FakeMachine) -> None:
    _mount(
        machine,
        "30 27 0:50 / /nfs rw - nfs4 server:/export rw",
        "31 27 0:51 / /elsewhere rw - overlay overlay rw",
    )
    assert _behind(machine, "/nfs/x") == _behind(machine, "/elsewhere/x") == []


def test_white_space_that_the_kernel_does_not_escape(machine: FakeMachine) -> None:
    """It writes blanks, tabs and newlines as numbers, and no other space."""
    _mount(
        machine,
        "30 27 259:5 / /my\u00a0disk\u2028one rw - xfs /dev/nvme1n1p1 rw",
        "31 27 0:50 / /run/nothing rw - tmpfs  rw",
    )
    (_, disk, empty) = read_mounts(Tree(machine.root))
    assert disk.point == "/my\u00a0disk\u2028one" and disk.options == {"rw"}
    assert (empty.source, empty.super_options) == ("", {"rw"})


def test_the_later_of_two_mounts_at_one_point_counts(machine: FakeMachine) -> None:
    _nvme(machine, "nvme0n1", "0000:5e:00.0", 0, node=0)
    _mount(
        machine,
        "30 27 259:1 / /data rw - ext4 /dev/nvme0n1p1 rw",
        "31 27 0:50 / /data rw - tmpfs tmpfs rw",
    )
    assert _behind(machine, "/data/x") == []


def test_addresses_are_made_of_torch_s_numbers() -> None:
    assert pci_address(0, 0x3B, 0) == "0000:3b:00.0"
    assert pci_address(0x10001, 0xAF, 0x1F) == "10001:af:1f.0"

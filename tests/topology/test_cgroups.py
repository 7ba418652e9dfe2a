"""Limits of both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.tree import ROOT_MOUNT, FakeMachine

from iopipe.topology import read_topology
from iopipe.topology.cgroups import memory_left, memory_used
from iopipe.topology.machine import Limits
from iopipe.topology.tree import Tree

_V2 = "31 27 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"


def _v1(controller: str, *, root: str = "/") -> str:
    where = f"/sys/fs/cgroup/{controller}"
    return f"32 27 0:31 {root} {where} rw - cgroup cgroup rw,{controller}"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    machine = FakeMachine(tmp_path)
    machine.two_nodes()
    return machine


def _limits(machine: FakeMachine, mounts: list[str], groups: str, files: dict[str, str]) -> Limits:
    machine.write({"proc/self/mountinfo": "\n".join([ROOT_MOUNT, *mounts])})
    machine.write({"proc/self/cgroup": groups})
    machine.write({f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    return read_topology(root=machine.root).limits


def test_without_groups_there_is_no_limit(machine: FakeMachine) -> None:
    limits = read_topology(root=machine.root).limits
    assert limits == Limits(
        cpus=tuple(range(16)), memory_nodes=(0, 1), quota_cpus=None, memory_bytes=None
    )


def test_version_2_takes_the_least_limit_on_the_way_up(machine: FakeMachine) -> None:
    limits = _limits(
        machine,
        [_V2],
        "0::/pods/one",
        {
            "pods/one/cpu.max": "max 100000\n",
            "pods/cpu.max": "350000 100000\n",
            "pods/one/memory.max": "8589934592\n",
            "pods/memory.max": "max\n",
            "pods/one/cpuset.cpus.effective": "4-7\n",
            "pods/one/cpuset.mems.effective": "1\n",
        },
    )
    assert limits == Limits(
        cpus=(4, 5, 6, 7), memory_nodes=(1,), quota_cpus=3.5, memory_bytes=8 << 30
    )


def test_version_1_has_a_hierarchy_for_each_controller(machine: FakeMachine) -> None:
    limits = _limits(
        machine,
        [_v1("cpu"), _v1("cpuset"), _v1("memory")],
        "3:cpuset:/set\n2:memory:/\n1:cpu:/share",
        {
            "cpu/share/cpu.cfs_quota_us": "200000\n",
            "cpu/share/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "cpuset/set/cpuset.effective_cpus": "0,8\n",
            "cpuset/set/cpuset.effective_mems": "0\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert limits == Limits(cpus=(0, 8), memory_nodes=(0,), quota_cpus=2.0, memory_bytes=None)


def test_a_container_s_mount_begins_at_its_own_group(machine: FakeMachine) -> None:
    limits = _limits(
        machine,
        [_v1("cpu", root="/docker/abc")],
        "1:cpu:/docker/abc",
        {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"},
    )
    assert limits.quota_cpus == 1.5


def test_a_controller_of_version_1_wins_beside_an_empty_version_2(machine: FakeMachine) -> None:
    unified = _V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    limits = _limits(
        machine,
        [_v1("cpu"), unified],
        "1:cpu:/\n0::/",
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000", "unified/x": ""},
    )
    assert limits.quota_cpus == 0.5


def test_the_mask_of_the_process_counts_too(machine: FakeMachine) -> None:
    machine.write({"proc/self/status": "Cpus_allowed_list:\t0-1\nMems_allowed_list:\t0\n"})
    limits = read_topology(root=machine.root).limits
    assert (limits.cpus, limits.memory_nodes) == ((0, 1), (0,))


def test_what_is_left_of_version_1_counts_groups_below(machine: FakeMachine) -> None:
    _limits(
        machine,
        [_v1("memory")],
        "2:memory:/pod",
        {
            "memory/pod/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/pod/memory.usage_in_bytes": "100\n",
            "memory/memory.limit_in_bytes": "1000\n",
            "memory/memory.usage_in_bytes": "990\n",
            "memory/memory.stat": "active_file 7\ntotal_active_file 40\ntotal_inactive_file 50\n",
        },
    )
    assert memory_left(Tree(machine.root)) == 1000 - (990 - 40 - 50)
    assert memory_used(Tree(machine.root)) == 100


def test_a_limit_whose_use_is_not_shown_leaves_nothing_to_say(machine: FakeMachine) -> None:
    _limits(machine, [_V2], "0::/", {"memory.max": "1000\n"})
    assert memory_left(Tree(machine.root)) is None

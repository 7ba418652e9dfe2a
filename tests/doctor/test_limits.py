"""What sessions and containers allow: every verdict, on machines made of files, and for real."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from fakes.patient import Case, ask_all, assert_says, cases
from fakes.tree import ROOT_MOUNT, FakeMachine

from iopipe.doctor import limits
from iopipe.doctor.finding import Patient
from iopipe.errors import StorageError
from iopipe.topology import MemoryPolicy, read_topology
from iopipe.topology.tree import Tree

_GROUP = "31 27 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
_HEAD = "Limit                     Soft Limit           Hard Limit           Units     \n"


def _limit(name: str, soft: str) -> dict[str, str]:
    return {"proc/self/limits": f"{_HEAD}{name:<25} {soft:<20} unlimited            files\n"}


def _group(**files: str) -> dict[str, str]:
    return {
        "proc/self/mountinfo": f"{ROOT_MOUNT}\n{_GROUP}",
        "proc/self/cgroup": "0::/",
        **{f"sys/fs/cgroup/{name.replace('_', '.', 1)}": text for name, text in files.items()},
    }


def _shm(size: str) -> dict[str, str]:
    options = f"rw,size={size}" if size else "rw"
    line = f"30 24 0:27 / /dev/shm rw,nosuid - tmpfs shm {options}"
    memory = "MemTotal:  8388608 kB\n"
    return {"proc/self/mountinfo": f"{ROOT_MOUNT}\n{line}", "proc/meminfo": memory}


def _memory(limit: int, used: int, cached: int = 0) -> dict[str, str]:
    return _group(
        memory_max=f"{limit}\n",
        memory_current=f"{used}\n",
        memory_stat=f"anon 5\ninactive_file {cached}\n",
    )


_GIB = 1 << 30
_SWITCH = "proc/sys/kernel/io_uring_disabled"


@cases(
    Case(check=limits.locked_memory, verdict="unknown", says="no /proc/self/limits"),
    Case(
        check=limits.locked_memory,
        verdict="ok",
        says="unlimited",
        files=_limit("Max locked memory", "unlimited"),
    ),
    Case(
        check=limits.locked_memory,
        verdict="warn",
        says="0.00781 GiB",
        files=_limit("Max locked memory", "8388608"),
    ),
    Case(check=limits.open_files, verdict="unknown", says="no /proc/self/limits"),
    Case(
        check=limits.open_files,
        verdict="ok",
        says="65536",
        files=_limit("Max open files", "65536"),
    ),
    Case(
        check=limits.open_files,
        verdict="warn",
        says="1024",
        files=_limit("Max open files", "1024"),
    ),
    Case(check=limits.open_files, verdict="fail", says="64", files=_limit("Max open files", "64")),
    Case(check=limits.shared_memory, verdict="unknown", says="no mount at /dev/shm"),
    Case(check=limits.shared_memory, verdict="fail", says="0.0625 GiB", files=_shm("65536k")),
    Case(check=limits.shared_memory, verdict="warn", says="0.5 GiB", files=_shm("512m")),
    Case(check=limits.shared_memory, verdict="ok", says="2 GiB", files=_shm("25%")),
    Case(check=limits.shared_memory, verdict="ok", says="4 GiB", files=_shm("")),
    Case(check=limits.shared_memory, verdict="unknown", says="size=much", files=_shm("much")),
    Case(check=limits.cpu_quota, verdict="ok", says="none"),
    Case(
        check=limits.cpu_quota,
        verdict="warn",
        says="1.5 CPUs' time on 4 CPUs",
        files=_group(cpu_max="150000 100000\n"),
    ),
    Case(
        check=limits.cpu_quota,
        verdict="ok",
        says="4 CPUs' time on 4 CPUs",
        files=_group(cpu_max="400000 100000\n"),
    ),
    Case(
        check=limits.cpu_quota,
        verdict="unknown",
        says="not known",
        files={"sys/devices/system/cpu/online": ""},
    ),
    Case(check=limits.cpu_throttled, verdict="unknown", says="no cpu.stat"),
    Case(
        check=limits.cpu_throttled,
        verdict="ok",
        says="0 of 500 periods",
        files=_group(cpu_stat="usage_usec 9\nnr_periods 500\nnr_throttled 0\n"),
    ),
    Case(
        check=limits.cpu_throttled,
        verdict="warn",
        says="5 of 500 periods",
        files=_group(cpu_stat="usage_usec 9\nnr_periods 500\nnr_throttled 5\n"),
    ),
    Case(
        check=limits.cpu_throttled,
        verdict="fail",
        says="200 of 500 periods",
        files=_group(cpu_stat="usage_usec 9\nnr_periods 500\nnr_throttled 200\n"),
    ),
    Case(check=limits.memory, verdict="ok", says="none"),
    Case(
        check=limits.memory,
        verdict="ok",
        says="7 GiB left of 8 GiB",
        files=_memory(8 * _GIB, _GIB),
    ),
    Case(
        check=limits.memory,
        verdict="ok",
        says="6 GiB left of 8 GiB",
        files=_memory(8 * _GIB, 7 * _GIB, cached=5 * _GIB),
    ),
    Case(
        check=limits.memory,
        verdict="warn",
        says="2 GiB left of 8 GiB",
        files=_memory(8 * _GIB, 6 * _GIB),
    ),
    Case(
        check=limits.memory,
        verdict="fail",
        says="0.25 GiB left of 8 GiB",
        files=_memory(8 * _GIB, 8 * _GIB - _GIB // 4),
    ),
    Case(
        check=limits.memory,
        verdict="unknown",
        says="the use of the group is not shown",
        files=_group(memory_max=str(_GIB)),
    ),
    Case(check=limits.cpuset, verdict="ok", says="CPUs 0-15, 2 GPUs", has_nodes=True),
    Case(
        check=limits.cpuset,
        verdict="fail",
        says="none on the node of 0000:af:00.0",
        has_nodes=True,
        files={"proc/self/status": "Cpus_allowed_list:\t0-3\n"},
    ),
    Case(
        check=limits.cpuset,
        verdict="unknown",
        says="not known",
        files={"sys/devices/system/cpu/online": ""},
    ),
    Case(check=limits.io_uring, verdict="unknown", says="not this machine"),
    Case(check=limits.io_uring, verdict="ok", says="0", files={_SWITCH: "0\n"}),
    Case(check=limits.io_uring, verdict="warn", says="is 2", files={_SWITCH: "2\n"}),
    Case(check=limits.memory_policy, verdict="ok", says="a single node"),
    Case(check=limits.memory_policy, verdict="unknown", says="not this machine", has_nodes=True),
)
def test_limits(case: Case, tmp_path: Path) -> None:
    assert_says(case, tmp_path)


def test_fewer_cpus_than_gpus_is_a_warning(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.nodes({0: "0"}, online_cpus="0")
    for slot in (1, 2):
        machine.gpu(f"0000:0{slot}:00.0", node=0)
    (found,) = ask_all(machine, limits.cpuset)
    assert (found.verdict, found.observed) == ("warn", "CPUs 0, 2 GPUs")


def test_the_limits_of_this_process_are_those_that_python_sees() -> None:
    patient = Patient(tree=Tree(), topology=read_topology(), path="/")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = limits.open_files(patient)
    said = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    assert found.observed == said


def test_a_ring_that_the_kernel_refuses_is_a_warning_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int) -> None:
        raise StorageError("cannot set up an io_uring: operation not permitted")

    monkeypatch.setattr(limits, "Ring", refuse)
    found = limits.io_uring(Patient(tree=Tree(), topology=read_topology(), path="/"))
    assert found.verdict == "warn"
    assert "permitted" in found.observed or "io_uring_disabled" in found.observed


@pytest.mark.parametrize("is_allowed", [True, False])
def test_memory_policies_are_asked_for_where_there_are_several_nodes(
    is_allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> MemoryPolicy:
        if not is_allowed:
            raise StorageError("get_mempolicy failed with EPERM")
        return MemoryPolicy(mode="default")

    machine = FakeMachine(tmp_path)
    machine.two_nodes()
    monkeypatch.setattr(limits, "get_policy", answer)
    topology = read_topology(root=machine.root)
    found = limits.memory_policy(Patient(tree=Tree(), topology=topology, path="/"))
    assert found.verdict == ("ok" if is_allowed else "warn")
    assert ("default" if is_allowed else "EPERM") in found.observed

"""Bindings made and undone in processes of their own: the kernel is asked what became of them.

The kernel's own words are the reference: masks and policies out of /proc/self/task/*/status and
numa_maps, beside what the system calls answer.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import iopipe
from iopipe.topology import (
    Binding,
    MemoryPolicy,
    apply_binding,
    bound,
    find_pages,
    get_policy,
    place,
    policy,
    restore,
)

_PROBE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall({number}, 0, 0, 0, 0, 0) != 0)"
_GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236}[os.uname().machine]
needs_numa = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", _PROBE.format(number=_GET_MEMPOLICY)]).returncode != 0,
    reason="this kernel or container forbids get_mempolicy (Docker: --cap-add SYS_NICE)",
)

CPU = min(os.sched_getaffinity(0))
BINDING = Binding(
    node=0, memory_node=0, cpus=(CPU,), worker_cpus=((CPU,),), reasons=("for a test",)
)

PRELUDE = f"""
import mmap, os, re, threading
from iopipe.topology import *
binding = Binding(node=0, memory_node=0, cpus=({CPU},), worker_cpus=(({CPU},),), reasons=())
def masks():
    found = set()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{{thread}}/status") as status:
            found.add(re.search(r"Cpus_allowed_list:\\s*(\\S+)", status.read())[1])
    return found
"""


def _run(code: str) -> str:
    """In a process of its own: threads and policies of pytest's stay as they are."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_threads_are_bound_and_given_back() -> None:
    said = _run(
        "stop = threading.Event()\n"
        "threads = [threading.Thread(target=stop.wait) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "before = masks()\n"
        "with bound(binding) as applied: inside = masks()\n"
        "print(applied.cpus, applied.num_threads, applied.problems)\n"
        "print(inside, masks() == before)\n"
        "stop.set()"
    )
    assert said == f"({CPU},) 4 ()\n{{'{CPU}'}} True"


@needs_numa
def test_the_policy_is_set_read_back_and_given_back() -> None:
    with bound(BINDING, policy="bind") as applied:
        assert applied.policy == MemoryPolicy(mode="bind", nodes=(0,))
        assert get_policy() == MemoryPolicy(mode="bind", nodes=(0,))
    assert get_policy() == MemoryPolicy(mode="default")


@needs_numa
def test_the_kernel_s_map_of_memory_shows_the_policy() -> None:
    said = _run(
        "applied = apply_binding(binding, worker=0)\n"
        "room = mmap.mmap(-1, 1 << 20); room[:] = bytes(1 << 20)\n"
        "with open('/proc/self/numa_maps') as maps: words = maps.read().split()\n"
        "print('prefer:0' in words, restore(applied), get_policy().mode)"
    )
    assert said == "True () default"


@needs_numa
def test_pages_are_nowhere_until_touched_and_then_where_they_were_sent() -> None:
    said = _run(
        "room = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "buffer = memoryview(room)\n"
        "place(buffer, MemoryPolicy(mode='bind', nodes=(0,)))\n"
        "print(dict(find_pages(buffer).pages_of_node), find_pages(buffer).num_absent)\n"
        "for page in range(0, 24): buffer[page * mmap.PAGESIZE] = 1\n"
        "print(dict(find_pages(buffer).pages_of_node), find_pages(buffer).num_absent)\n"
        "address = [line for line in open('/proc/self/numa_maps') if 'anon=24' in line]\n"
        "print([('bind:0' in line, 'N0=24' in line) for line in address])"
    )
    first, second, kernel = said.splitlines()
    assert first == "{} 64"
    assert second == "{0: 24} 40"
    assert kernel == "[(True, True)]"


@needs_numa
def test_a_worker_inherits_what_its_parent_was_bound_to() -> None:
    said = _run(
        "apply_binding(binding)\n"
        "import subprocess, sys\n"
        "code = 'import os; from iopipe.topology import get_policy;'\n"
        "code += 'print(os.sched_getaffinity(0), get_policy().nodes)'\n"
        "print(subprocess.check_output([sys.executable, '-c', code], text=True))"
    )
    assert said == f"{{{CPU}}} (0,)"


def test_cpus_that_do_not_exist_are_a_problem_by_name() -> None:
    nowhere = Binding(node=None, memory_node=None, cpus=(1023,), worker_cpus=(), reasons=())
    applied = apply_binding(nowhere)
    assert "sched_setaffinity to CPUs 1023 failed with EINVAL" in applied.problems[0]
    assert set(applied.cpus) == os.sched_getaffinity(0)
    assert restore(applied) == ()


@needs_numa
def test_a_node_that_does_not_exist_is_a_problem_by_name() -> None:
    nowhere = Binding(node=9, memory_node=900, cpus=(CPU,), worker_cpus=(), reasons=())
    with bound(nowhere) as applied:
        assert any("set_mempolicy failed with EINVAL" in one for one in applied.problems)
        assert applied.policy == MemoryPolicy(mode="default")
    with pytest.raises(iopipe.PipelineError, match="node 5000 cannot be"):
        policy.set_policy(MemoryPolicy(mode="bind", nodes=(5000,)))


_FORBID = """
import ctypes, struct
def forbid(code, number):
    # BPF: load the number; this one fails with `code`, all others pass.
    fail, allow = (0x06, 0, 0, 0x50000 | code), (0x06, 0, 0, 0x7FFF0000)
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), fail, allow]
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(program)
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0
    filter = Filter(len(steps), ctypes.addressof(held))
    assert prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
"""


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
def test_a_seccomp_profile_that_forbids_it_is_reported_by_name(name: str) -> None:
    """With a real filter of the kernel's, in a child that keeps it."""
    said = _run(
        _FORBID + "import errno\n"
        "from iopipe.topology.policy import _NUMBERS\n"
        "import platform\n"
        f"forbid(errno.{name}, _NUMBERS[platform.machine()]['set_mempolicy'])\n"
        "applied = apply_binding(binding)\n"
        "print(applied.cpus, applied.problems[0])"
    )
    assert said.startswith(f"({CPU},) set_mempolicy failed with {name} ")
    assert "seccomp" in said


def test_buffers_without_a_place_of_their_own_are_refused() -> None:
    with pytest.raises(iopipe.PipelineError, match="read-only, empty or has gaps"):
        find_pages(memoryview(b"constant"))
    with pytest.raises(iopipe.PipelineError, match="does not begin at a page"):
        place(memoryview(bytearray(8192))[1:], MemoryPolicy(mode="bind", nodes=(0,)))


def test_a_machine_whose_calls_have_other_numbers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy.platform, "machine", lambda: "s390x")
    with pytest.raises(iopipe.StorageError, match="its number on s390x is not known"):
        get_policy()

"""Environment and builds: every verdict, on environments made of words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from fakes.patient import Case, ask_all, assert_says, cases
from fakes.tree import FakeMachine

from iopipe.doctor import process

_JEMALLOC = {"proc/self/maps": "7f00-7f01 r-xp 0 fe:00 9 /usr/lib/libjemalloc.so.2\n"}
_GLIBC = {"proc/self/maps": "7f00-7f01 r-xp 0 fe:00 9 /usr/lib/libc.so.6\n"}
_INFINIBAND = {"sys/class/infiniband/mlx5_0/node_type": "1: CA\n"}
_NO_CPUS = {"sys/devices/system/cpu/online": ""}
_QUOTA = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
}
_CONF = "PYTORCH_CUDA_ALLOC_CONF"


@cases(
    Case(check=process.omp_threads, verdict="unknown", says="not known", files=_NO_CPUS),
    Case(check=process.omp_threads, verdict="ok", says="unset (each of 1 ranks takes 4 CPUs)"),
    Case(
        check=process.omp_threads,
        verdict="warn",
        says="unset (each of 2",
        environment={"LOCAL_WORLD_SIZE": "2"},
    ),
    Case(
        check=process.omp_threads,
        verdict="ok",
        says="2 ranks of 2 threads on 4 CPUs",
        environment={"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "2,1"},
    ),
    Case(
        check=process.omp_threads,
        verdict="warn",
        says="2 ranks of 3 threads on 4 CPUs",
        environment={"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"},
    ),
    Case(
        check=process.omp_threads,
        verdict="ok",
        says="unset (each of 1 ranks takes 4 CPUs)",
        environment={"LOCAL_WORLD_SIZE": "", "OMP_NUM_THREADS": "two"},
    ),
    Case(check=process.launch_blocking, verdict="ok", says="''"),
    Case(
        check=process.launch_blocking,
        verdict="ok",
        says="'0'",
        environment={"CUDA_LAUNCH_BLOCKING": "0"},
    ),
    Case(
        check=process.launch_blocking,
        verdict="fail",
        says="'1'",
        environment={"CUDA_LAUNCH_BLOCKING": "1"},
    ),
    Case(check=process.allocator_options, verdict="ok", says="unset"),
    Case(
        check=process.allocator_options,
        verdict="ok",
        says="max_split",
        environment={_CONF: "max_split_size_mb:256"},
    ),
    Case(
        check=process.allocator_options,
        verdict="warn",
        says="ignored: max_split_size_mb",
        environment={_CONF: "max_split_size_mb:256,backend:cudaMallocAsync"},
    ),
    Case(check=process.malloc, verdict="unknown", says="no /proc/self/maps"),
    Case(check=process.malloc, verdict="ok", says="glibc", files=_GLIBC),
    Case(
        check=process.malloc,
        verdict="warn",
        says="glibc, ignores MALLOC_CONF",
        files=_GLIBC,
        environment={"MALLOC_CONF": "narenas:8"},
    ),
    Case(
        check=process.malloc,
        verdict="ok",
        says="jemalloc",
        files=_JEMALLOC,
        environment={"MALLOC_CONF": "narenas:8"},
    ),
    Case(
        check=process.malloc,
        verdict="warn",
        says="jemalloc, ignores TCMALLOC_RELEASE_RATE",
        files=_JEMALLOC,
        environment={"TCMALLOC_RELEASE_RATE": "1"},
    ),
    Case(check=process.fork, verdict="ok", says="no InfiniBand"),
    Case(
        check=process.fork,
        verdict="warn",
        says="mlx5_0",
        files=_INFINIBAND,
    ),
    Case(
        check=process.fork,
        verdict="ok",
        says="mlx5_0",
        files=_INFINIBAND,
        environment={"RDMAV_FORK_SAFE": "1"},
    ),
    Case(
        check=process.fork,
        verdict="ok",
        says="mlx5_0, Linux 6.8",
        files=_INFINIBAND | {"proc/sys/kernel/osrelease": "6.8.0-31-generic\n"},
    ),
    Case(
        check=process.fork,
        verdict="warn",
        says="mlx5_0",
        files=_INFINIBAND | {"proc/sys/kernel/osrelease": "5.4.0\n"},
    ),
    Case(check=process.torch_build, verdict="unknown", says=torch.__version__.split("+")[0]),
    Case(check=process.cpus_per_gpu, verdict="unknown", says="no NVIDIA GPU"),
    Case(
        check=process.cpus_per_gpu,
        verdict="ok",
        says="16 CPUs for 2 GPUs",
        has_nodes=True,
    ),
    Case(
        check=process.cpus_per_gpu,
        verdict="warn",
        says="3 CPUs for 2 GPUs",
        has_nodes=True,
        files={"proc/self/status": "Cpus_allowed_list:\t0-2\n"},
    ),
    Case(
        check=process.cpus_per_gpu,
        verdict="fail",
        says="1 CPUs for 2 GPUs",
        has_nodes=True,
        files={"proc/self/status": "Cpus_allowed_list:\t5\n"},
    ),
    Case(
        check=process.cpus_per_gpu,
        verdict="fail",
        says="1.5 CPUs for 2 GPUs",
        has_nodes=True,
        files=_QUOTA,
    ),
    Case(
        check=process.cpus_per_gpu,
        verdict="unknown",
        says="the CPUs of this process are not known",
        has_nodes=True,
        files=_NO_CPUS,
    ),
)
def test_the_process(case: Case, tmp_path: Path) -> None:
    assert_says(case, tmp_path)


@pytest.mark.parametrize(("cuda", "verdict"), [("13.0", "ok"), (None, "fail")])
def test_a_cpu_build_beside_a_gpu_fails(
    cuda: str | None, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine(tmp_path)
    machine.two_nodes()
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (found,) = ask_all(machine, process.torch_build)
    assert found.verdict == verdict


def test_a_torch_that_cannot_be_imported_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (found,) = ask_all(FakeMachine(tmp_path), process.torch_build)
    assert (found.verdict, "cannot be imported" in found.observed) == ("fail", True)

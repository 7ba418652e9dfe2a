"""What this process would inherit and load: environment, torch's build, the allocator.

Stands beside the other topics of `doctor.examine`.  Invariant: torch is asked for its build alone;
CUDA is not initialised.
"""

from __future__ import annotations

import math
import re

from iopipe.doctor.finding import Check, Finding, Patient, Rule

_ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")
_ALLOC_CONF = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_NATIVE_ONLY = ("max_split_size_mb", "roundup_power2_divisions", "garbage_collection_threshold")

_OMP = Rule(
    name="process.omp_threads",
    threshold="ranks times OMP_NUM_THREADS is at most the CPUs that may be used",
    why="each rank and worker starts a pool of this size, and they take the cores in turns",
    who="user",
    command="export OMP_NUM_THREADS=1 (torchrun's choice), more where there are cores left",
)
_BLOCKING = Rule(
    name="process.launch_blocking",
    threshold="CUDA_LAUNCH_BLOCKING unset or 0",
    why="every kernel is waited for, so nothing overlaps: it is for finding errors",
    who="user",
    command="unset CUDA_LAUNCH_BLOCKING",
)
_CONF = Rule(
    name="process.allocator_options",
    threshold="no option that the chosen backend ignores",
    why="cudaMallocAsync takes none of the native allocator's options: they do nothing there",
    who="user",
    command="take backend:cudaMallocAsync or the other options out of PYTORCH_ALLOC_CONF",
)
_MALLOC = Rule(
    name="process.malloc",
    threshold="options only of the allocator that is loaded",
    why="MALLOC_CONF and TCMALLOC_* mean nothing to glibc; LD_PRELOAD loads another allocator",
    who="user",
    command="set LD_PRELOAD to the allocator's library, or drop its options",
)
_FORK = Rule(
    name="process.fork",
    threshold="RDMAV_FORK_SAFE=1 where there is InfiniBand and a kernel before 5.12",
    why="workers forked beside RDMA share registered pages, and transfers then hit the wrong copy",
    who="user",
    command="export RDMAV_FORK_SAFE=1, or start workers by spawn or a fork server",
)
_TORCH = Rule(
    name="process.torch_build",
    threshold="built for CUDA where there is a GPU",
    why="a CPU build of torch sees no GPU at all",
    who="user",
    command="pip install torch from the index of your CUDA version, see pytorch.org",
)
_CPUS = Rule(
    name="process.cpus_per_gpu",
    threshold="at least 2 for each GPU; fails under 1",
    why="one thread launches kernels and one at least must bring the data",
    who="cloud",
    command="ask for more CPUs, or use fewer GPUs",
)


def omp_threads(here: Patient) -> Finding:
    """Of 'n,m' (nested pools) the first counts, see the OpenMP specification."""
    world = _number(here.environment.get("LOCAL_WORLD_SIZE", "")) or 1
    cpus = _usable_cpus(here)
    if cpus is None:
        return _OMP.unknown("the CPUs of this process are not known")
    num_cpus = max(1, int(cpus))
    first = _number(here.environment.get("OMP_NUM_THREADS", "").partition(",")[0])
    if first is None:
        said = f"unset (each of {world} ranks takes {num_cpus} CPUs)"
        return _OMP.ok(said) if world == 1 else _OMP.warn(said)
    said = f"{world} ranks of {first} threads on {num_cpus} CPUs"
    return _OMP.ok(said) if world * first <= num_cpus else _OMP.warn(said)


def launch_blocking(here: Patient) -> Finding:
    value = here.environment.get("CUDA_LAUNCH_BLOCKING", "")
    return (_BLOCKING.ok if value in {"", "0"} else _BLOCKING.fail)(repr(value))


def allocator_options(here: Patient) -> Finding:
    said = next((here.environment[name] for name in _ALLOC_CONF if name in here.environment), "")
    lost = [name for name in _NATIVE_ONLY if name in said]
    is_lost = "cudaMallocAsync" in said and lost
    return _CONF.warn(f"ignored: {', '.join(lost)}") if is_lost else _CONF.ok(said or "unset")


def malloc(here: Patient) -> Finding:
    maps = here.text("proc/self/maps")
    if maps is None:
        return _MALLOC.unknown("no /proc/self/maps")
    loaded = next((name for name in _ALLOCATORS if name in maps), "glibc")
    options = {
        name: "jemalloc" if name == "MALLOC_CONF" else "tcmalloc"
        for name in here.environment
        if name == "MALLOC_CONF" or name.startswith("TCMALLOC_")
    }
    lost = sorted(name for name, owner in options.items() if owner != loaded)
    return _MALLOC.warn(f"{loaded}, ignores {', '.join(lost)}") if lost else _MALLOC.ok(loaded)


def fork(here: Patient) -> Finding:
    """Linux 5.12 and later copy such pages when they fork, see ibv_fork_init(3)."""
    cards = here.tree.names("sys/class/infiniband")
    if not cards:
        return _FORK.ok("no InfiniBand")
    release = re.match(r"(\d+)\.(\d+)", here.text("proc/sys/kernel/osrelease") or "")
    if release and (int(release[1]), int(release[2])) >= (5, 12):
        return _FORK.ok(f"{', '.join(cards)}, Linux {release[0]}")
    is_safe = {"RDMAV_FORK_SAFE", "IBV_FORK_SAFE"} & here.environment.keys()
    return (_FORK.ok if is_safe else _FORK.warn)(", ".join(cards))


def torch_build(here: Patient) -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of CUDA's that it needs, for instance
        return _TORCH.fail(f"torch cannot be imported: {error}")
    version, cuda = torch.__version__, torch.version.cuda
    if not here.topology.gpus:
        return _TORCH.unknown(f"torch {version}, no NVIDIA GPU is shown to this process")
    if cuda is None:
        return _TORCH.fail(f"torch {version}, not built for CUDA")
    return _TORCH.ok(f"torch {version} for CUDA {cuda}")


def cpus_per_gpu(here: Patient) -> Finding:
    cpus, num_gpus = _usable_cpus(here), len(here.topology.gpus)
    if not num_gpus:
        return _CPUS.unknown("no NVIDIA GPU is shown to this process")
    if cpus is None:
        return _CPUS.unknown("the CPUs of this process are not known")
    said = f"{cpus:g} CPUs for {num_gpus} GPUs"
    if cpus < num_gpus:
        return _CPUS.fail(said)
    return _CPUS.ok(said) if cpus >= 2 * num_gpus else _CPUS.warn(said)


def _usable_cpus(here: Patient) -> float | None:
    """Of mask, cpuset and quota; a quota may be a part of one."""
    limits = here.topology.limits
    if not limits.cpus:
        return None
    return min(len(limits.cpus), math.inf if limits.quota_cpus is None else limits.quota_cpus)


def _number(text: str) -> int | None:
    """None where somebody wrote something else."""
    return int(text) if re.fullmatch(r"\s*[0-9]+\s*", text) else None


CHECKS: tuple[Check, ...] = (
    omp_threads,
    launch_blocking,
    allocator_options,
    malloc,
    fork,
    torch_build,
    cpus_per_gpu,
)

"""What is measured: one point of a sweep, and the grid of them.

First in the benchmark: `sweep` runs jobs, `lanes` issues their reads.  Invariant: a job is pure
description; two jobs are the same measurement exactly if they are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, TypeAlias, get_args

from iopipe.errors import PipelineError

BackendName: TypeAlias = Literal["posix", "direct", "uring", "mapped", "gds", "objects", "auto"]
Access: TypeAlias = Literal["sequential", "random", "shards"]
Destination: TypeAlias = Literal["host", "pinned", "gpu", "gpu_async"]
CacheState: TypeAlias = Literal["warm", "cold", "bypassed", "remote"]

LOCAL_BACKENDS: tuple[BackendName, ...] = ("posix", "direct", "uring", "mapped", "gds")
REMOTE_BACKENDS: tuple[BackendName, ...] = ("objects", "auto")
BACKENDS, ACCESSES = get_args(BackendName), get_args(Access)
DESTINATIONS, CACHES = get_args(Destination), ("warm", "cold")

MAX_BLOCK_BYTES = 1 << 30
_SUBMISSION_BYTES, _MAX_BATCH = 16 << 20, 256
"""What lies in memory is asked for 16 MiB at a time, as a reader asks for its chunk: the store's
word with the operating system about the file's name is then not paid for each 4 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One point of the sweep."""

    backend: BackendName
    access: Access
    block_bytes: int
    queue_depth: int
    """Reads under way at a time."""
    direct: bool
    """O_DIRECT: round the page cache."""
    destination: Destination
    cache: CacheState
    """What is made sure of before the run; 'bypassed' and 'remote' need nothing."""
    batch: int = 1
    """Requests handed to the store at once."""

    @property
    def fans_out(self) -> bool:
        """The store itself has the requests of a submission under way at a time; the others
        read one after the other in the thread that asks."""
        return self.backend in ("uring", "gds", "objects", "auto")

    @property
    def num_lanes(self) -> int:
        """Threads that ask."""
        each = self.batch if self.fans_out else 2 if self.destination == "gpu_async" else 1
        return max(1, self.queue_depth // each)

    @property
    def transfer(self) -> str:
        """gdsio's name of this way of the bytes; of gds it holds if its path is gpudirect."""
        if self.backend == "gds":
            return "GPUD"
        return {"gpu": "CPU_GPU", "gpu_async": "CPU_ASYNC_GPU"}.get(self.destination, "CPUONLY")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        how = "direct" if self.direct else self.cache
        return (
            f"{self.backend} {self.access} {in_binary(self.block_bytes)} "
            f"depth {self.queue_depth} {how} to {self.destination}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """What was asked for and is not measured, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The axes of a sweep."""

    backends: Sequence[BackendName]
    block_bytes: Sequence[int] = (4096, 128 << 10, 1 << 20)
    queue_depths: Sequence[int] = (1, 8)
    accesses: Sequence[Access] = ("random", "sequential")
    destinations: Sequence[Destination] = ("host",)
    caches: Sequence[CacheState] = ("cold", "warm")
    direct: Sequence[bool] = (False, True)
    """O_DIRECT where a backend offers the choice, as uring does; the others have but one."""
    batch: int | None = None
    """None: 1, and submissions of 16 MiB where the data lies in memory."""

    def __post_init__(self) -> None:
        for block in self.block_bytes:
            if not 1 <= block <= MAX_BLOCK_BYTES:
                raise PipelineError(f"block size {block}: give 1 to {MAX_BLOCK_BYTES} bytes")
        for depth in self.queue_depths:
            if not 1 <= depth <= 4096:
                raise PipelineError(f"queue depth {depth}: give 1 to 4096")
        if self.batch is not None and self.batch < 1:
            raise PipelineError(f"batch={self.batch} must be 1 or more")

    def jobs(self, *, in_memory: bool) -> list[Job]:
        """Every point that can be, those that tell most first: a sweep that runs out of time
        has seen each backend.  `in_memory`: the files lie in a tmpfs."""
        axes = product(
            self.accesses, self.queue_depths, self.block_bytes, self.destinations, self.backends
        )
        jobs = []
        for access, depth, block, destination, backend in axes:
            if not _goes_to(backend, destination, depth):
                continue
            for direct, cache in self._ways(backend):
                job = Job(
                    backend=backend,
                    access=access,
                    block_bytes=block,
                    queue_depth=depth,
                    direct=direct,
                    destination=destination,
                    cache=cache,
                )
                jobs.append(self._batched(job, in_memory=in_memory))
        return list(dict.fromkeys(jobs))

    def _ways(self, backend: BackendName) -> list[tuple[bool, CacheState]]:
        """(direct, cache) that `backend` can be measured with."""
        if backend in REMOTE_BACKENDS:
            return [(False, "remote")]
        can_be = {"direct": (True,), "uring": (True, False)}.get(backend, (False,))
        ways: list[tuple[bool, CacheState]] = []
        for direct in can_be:
            if direct in self.direct:
                ways += [(direct, cache) for cache in (("bypassed",) if direct else self.caches)]
        return ways

    def _batched(self, job: Job, *, in_memory: bool) -> Job:
        batch = self.batch
        if job.fans_out and batch is None:
            # A few threads that each hand over some: more would wait for the interpreter.
            batch = max(1, job.queue_depth // 4)
        elif batch is None:
            is_there = in_memory or job.cache == "warm"
            batch = min(_MAX_BATCH, _SUBMISSION_BYTES // job.block_bytes) if is_there else 1
        if job.fans_out:
            batch = min(batch, job.queue_depth)
        if job.backend == "mapped" or (job.destination != "host" and not job.fans_out):
            batch = 1
        values = {**job.as_json(), "batch": max(1, batch)}
        return Job(**values)


def _goes_to(backend: BackendName, destination: Destination, depth: int) -> bool:
    """gds serves the GPU alone; a copy beside the next read makes two of a lane's reads."""
    if destination == "gpu_async":
        return backend in ("posix", "direct") and depth % 2 == 0
    if backend == "mapped":
        return destination in ("host", "pinned")
    return destination == "gpu" if backend == "gds" else True


def in_binary(num_bytes: float) -> str:
    """'128 KiB', '1.5 GiB', '100 B'."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if num_bytes >= 1 << power:
            return f"{num_bytes / (1 << power):.4g} {unit}"
    return f"{num_bytes:.4g} B"


def names_of(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))

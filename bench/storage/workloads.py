"""Training jobs as storage sees them: sizes of samples, batches, compute times, marks to pass.

Stands in front of `emulation`.  Invariant: every figure of MLPerf Storage's is the one of its v3.0
configuration files; what is our own says so.

Source: github.com/mlcommons/storage, tag v3.0, configs/dlio/workload; marks in its guidelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from iopipe.errors import PipelineError

WorkloadName: TypeAlias = Literal[
    "unet3d", "retinanet", "resnet50", "cosmoflow", "tokens", "images"
]
Accelerator: TypeAlias = Literal["a100", "h100", "b200"]
WORKLOAD_NAMES, ACCELERATORS = get_args(WorkloadName), get_args(Accelerator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One job on one kind of accelerator."""

    name: WorkloadName
    accelerator: Accelerator
    batch_size: int
    compute_seconds: float
    """Of one batch."""
    sample_bytes: int
    """Mean."""
    sample_bytes_deviation: int = 0
    """Standard deviation of a normal distribution."""
    samples_per_file: int = 1
    read_threads: int = 4
    mark: float = 0.90
    """The AU that is to be reached."""
    is_mlperf: bool = True

    @property
    def demand_gbps(self) -> float:
        """Of one accelerator that never waits."""
        return self.batch_size * self.sample_bytes / self.compute_seconds / 1e9

    def sizes(self, num_samples: int, *, seed: int) -> npt.NDArray[np.int64]:
        """[num_samples]: bytes of each, drawn as DLIO's generator draws them, 1 KiB at least."""
        if not self.sample_bytes_deviation:
            return np.full(num_samples, self.sample_bytes, np.int64)
        draws = np.random.default_rng(seed)
        sizes = draws.normal(self.sample_bytes, self.sample_bytes_deviation, num_samples)
        return np.maximum(1024, sizes).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    sample_bytes: int
    deviation: int = 0
    samples_per_file: int = 1
    read_threads: int
    mark: float
    batches: Mapping[Accelerator, tuple[int, float]]
    """Accelerator: (samples, seconds of compute) of a batch."""
    is_mlperf: bool = True


_KINDS: dict[WorkloadName, _Kind] = {
    "unet3d": _Kind(
        sample_bytes=146_600_628,
        deviation=68_341_808,
        read_threads=4,
        mark=0.90,
        batches={"a100": (7, 0.636), "h100": (7, 0.323), "b200": (7, 0.162)},
    ),
    "resnet50": _Kind(
        sample_bytes=114_660,
        samples_per_file=1251,
        read_threads=8,
        mark=0.90,
        batches={"a100": (400, 0.435), "h100": (400, 0.224)},
    ),
    "cosmoflow": _Kind(
        sample_bytes=2_828_486,
        deviation=71_311,
        read_threads=4,
        mark=0.70,
        batches={"a100": (1, 0.00551), "h100": (1, 0.00350)},
    ),
    "retinanet": _Kind(
        sample_bytes=322_957, read_threads=8, mark=0.85, batches={"b200": (24, 0.04755)}
    ),
    # Ours.  Sequences of 4,096 tokens of 4 bytes, 16 a batch, at the speed of a model of 1.2
    # billion parameters: 6 x parameters x tokens at 40 % of 312, 989 and 2,250 TFLOP/s.
    "tokens": _Kind(
        sample_bytes=16_384,
        samples_per_file=16_384,
        read_threads=4,
        mark=0.90,
        batches={"a100": (16, 3.78), "h100": (16, 1.19), "b200": (16, 0.524)},
        is_mlperf=False,
    ),
    # Ours.  Photographs of 110 KB in shards, and the batch times of MLPerf's resnet50; for b200
    # half of the h100's.
    "images": _Kind(
        sample_bytes=110_000,
        deviation=40_000,
        samples_per_file=1000,
        read_threads=8,
        mark=0.90,
        batches={"a100": (400, 0.435), "h100": (400, 0.224), "b200": (400, 0.112)},
        is_mlperf=False,
    ),
}


def workload_of(name: WorkloadName, accelerator: Accelerator) -> Workload:
    """`PipelineError` where MLPerf Storage has no such configuration."""
    kind = _KINDS[name]
    if accelerator not in kind.batches:
        raise PipelineError(
            f"there is no {name} for {accelerator}: give --accelerator {' or '.join(kind.batches)}"
        )
    batch_size, seconds = kind.batches[accelerator]
    return Workload(
        name=name,
        accelerator=accelerator,
        batch_size=batch_size,
        compute_seconds=seconds,
        sample_bytes=kind.sample_bytes,
        sample_bytes_deviation=kind.deviation,
        samples_per_file=kind.samples_per_file,
        read_threads=kind.read_threads,
        mark=kind.mark,
        is_mlperf=kind.is_mlperf,
    )

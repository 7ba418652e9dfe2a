"""What a measurement stands on: the GPU, what it can at best, and who times on it.

Stands between the clocks and those who judge by them.  Invariant: a share of the copy peak
is one of this very process, not of a data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from iopipe.bench.kernels.aot import Compiled
from iopipe.bench.kernels.resources import Limits, refused, resident_warps
from iopipe.bench.kernels.timing import CudaTimer, Timer
from iopipe.errors import PipelineError
from iopipe.kernels.configs import Config
from iopipe.kernels.gpus import Gpu, current_gpu

_NEAR_PEAK = 0.8
_NEAR_FLOOR = 2.0
_FEW_WARPS = 32

Refuse = Callable[
    [Mapping[str, Config], Callable[[Config], object]],
    tuple[dict[str, str], dict[str, Compiled]],
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A GPU that has been measured."""

    gpu: Gpu
    timer: Timer
    refuse: Refuse
    """`resources.refused` for this GPU."""
    copy_peak: float
    """Bytes read and written a second by a plain copy."""
    floor_microseconds: float
    """Of a launch that does nothing."""
    shared_bytes: int
    """That one program may have."""

    def bound_microseconds(self, num_bytes: int) -> float:
        """No kernel that moves so many bytes is expected below this."""
        return max(1e6 * num_bytes / self.copy_peak, self.floor_microseconds)

    def fraction_of_peak(self, num_bytes: int, microseconds: float) -> float:
        """Near 1: as fast as a copy of as many bytes."""
        return num_bytes / (1e-6 * microseconds) / self.copy_peak

    def bound_by(
        self, num_bytes: int, microseconds: float, code: Compiled | None, config: Config
    ) -> str:
        """What keeps a launch from being faster, as far as its numbers tell."""
        if self.fraction_of_peak(num_bytes, microseconds) >= _NEAR_PEAK:
            return "memory"
        if microseconds < _NEAR_FLOOR * self.floor_microseconds:
            return "launch"
        if code is None:
            return "instructions or latency"
        warps = resident_warps(code, num_warps=config.num_warps, shared_bytes=self.shared_bytes)
        held = f"{code.registers} registers, {code.shared_bytes} bytes shared: {warps} of 64 warps"
        return f"latency ({held})" if warps < _FEW_WARPS else f"instructions ({held})"


def measured_rig(purpose: str) -> Rig:
    """The current CUDA device, measured; raises PipelineError where there is none."""
    gpu = current_gpu()
    if gpu is None:
        raise PipelineError(f"{purpose} needs a CUDA device: none is visible here")
    timer, limits = CudaTimer(), Limits.of_device()
    return Rig(
        gpu=gpu,
        timer=timer,
        refuse=lambda configs, run: refused(configs, run, limits=limits),
        copy_peak=timer.copy_peak(),
        floor_microseconds=timer.floor(),
        shared_bytes=limits.shared_bytes,
    )

"""A process without a GPU that records what launches on CPU tensors would compile.

    python -m fakes.recorded    prints what `refused` says of three configurations

Triton asks its driver for the device and the target before it compiles, and for nothing else
while launches are only recorded; this driver says that it is a GPU of architecture 90.
"""

from __future__ import annotations

import json
import sys

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from iopipe.bench.kernels.resources import Limits, refused
from iopipe.bench.kernels.tune import label
from iopipe.kernels.configs import Config


class FakeDriver:
    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def main() -> None:
    driver.set_active(FakeDriver())
    from fakes import scale_cast as subject

    case = subject.case(4096, "cpu")
    sizes = ((32768, 1), (1000, 4), (2048, 4))
    configs = [Config(blocks={"BLOCK": block}, num_warps=warps) for block, warps in sizes]
    reasons, codes = refused(
        {label(config): config for config in configs},
        case.run,
        limits=Limits(sm=90, shared_bytes=232448),
    )
    loads = {name: dict(code.load_bits) for name, code in codes.items()}
    sys.stdout.write(json.dumps({"refused": reasons, "loads": loads}))


if __name__ == "__main__":
    main()

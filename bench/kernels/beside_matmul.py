"""What a kernel costs the training step beside it: matrix products alone, and with the kernel.

Stands beside the cases.  Invariant: the kernel's pace is set on the device, by the progress
of the matrix products themselves: one launch behind every so many of them.

    python -m iopipe.bench.kernels.beside_matmul
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

_SIDE = 4096
_ROUNDS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Matrix products with a kernel beside them."""

    slowdown: float
    """Median over rounds of (time with the kernel / time alone) - 1; near 0: it costs nothing."""
    spread: tuple[float, float]
    """The least and greatest of the rounds."""
    alone_ms: float
    """One matrix product, alone."""
    every: int
    """Matrix products for one launch of the kernel."""
    pace_gbps: float
    """Input bytes of the kernel a second, in 10^9, that this pace amounts to."""


def beside_matmul(
    launch: Callable[[], Any],
    *,
    num_bytes: int,
    gbps: float = 55.0,
    num_launches: int = 30,
    yields: bool = False,
) -> Beside:
    """Run bfloat16 products of 4096 x 4096 with `launch` on a stream of its own, and without.

    `num_bytes`: of input that one launch takes in; it is launched no less often than input
    comes at `gbps`.  `yields`: the products' stream has the higher priority, so that the kernel
    gets the processors that they leave.  Rounds of both kinds take turns.
    """
    left, right = (torch.randn(_SIDE, _SIDE, device="cuda").bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    main: torch.cuda.Stream = torch.cuda.Stream(  # type: ignore[no-untyped-call]
        priority=-1 if yields else 0
    )

    def run(every: int, number: int, *, beside: bool) -> float:
        """Milliseconds a product."""
        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        torch.cuda.synchronize()
        with torch.cuda.stream(main):
            begin.record()
            for index in range(number):
                if beside and index % every == 0:
                    side.wait_stream(main)
                    with torch.cuda.stream(side):
                        launch()
                torch.mm(left, right, out=product)
            end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / number

    launch()
    run(1, 200, beside=True)
    alone = run(1, 200, beside=False)
    every = max(1, int(num_bytes / gbps / 1e6 / alone))
    number = every * num_launches
    pairs = [
        (run(every, number, beside=False), run(every, number, beside=True)) for _ in range(_ROUNDS)
    ]
    ratios = [beside / plain - 1 for plain, beside in pairs]
    plain = statistics.median(pair[0] for pair in pairs)
    return Beside(
        slowdown=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        alone_ms=plain,
        every=every,
        pace_gbps=num_bytes / (plain * every) / 1e6,
    )


def main() -> None:
    """The image kernel at the bar's shape, for several budgets of programs."""
    from iopipe.bench.kernels.image import OPTIONS, packed, random_resized_crops
    from iopipe.kernels.image import transform_images

    images = packed(256, 375, 500, device="cuda")
    parameters = random_resized_crops(images)
    out = OPTIONS.empty(len(images), 3, device="cuda")
    for yields in (False, True):
        for max_programs in (None, 528, 264, 132, 64):

            def launch(max_programs: int | None = max_programs) -> torch.Tensor:
                return transform_images(
                    images, parameters, OPTIONS, out=out, max_programs=max_programs
                )

            found = beside_matmul(launch, num_bytes=images.data.numel(), yields=yields)
            row = {"max_programs": max_programs, "yields": yields, **asdict(found)}
            json.dump(row, sys.stdout)
            print(flush=True)


if __name__ == "__main__":
    main()

"""Cases of the checksum kernel: records and blocks of a buffer that came by direct storage.

Stands beside `iopipe.kernels.checksum`.  Invariant: bytes are those of the ranges, read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.checksum import KERNEL, crc32c, problem_of
from iopipe.kernels.checksum_twin import crc32c as twin
from iopipe.kernels.checksum_twin import folded

_GIB = 2**30


def cases(device: str) -> Iterator[Case]:
    """The bar's shape first: 1 GiB in ranges of 100 KB to 1 MB."""
    yield _case("1 GiB, ranges of 100 KB to 1 MB", _GIB, 100_000, 1_000_000, device)
    yield _case("1 GiB, ranges of 10 KB to 100 KB", _GIB, 10_000, 100_000, device)
    yield _case("256 MiB, ranges of 16 MB", _GIB // 4, 16_000_000, 16_000_001, device)
    yield _case("16 MiB, ranges of 100 KB", _GIB // 64, 100_000, 100_001, device)


def _case(name: str, size: int, least: int, most: int, device: str) -> Case:
    generator = torch.Generator(device).manual_seed(size)
    data = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator, device=device)
    lengths = torch.randint(least, most, (2 * size // (least + most) + 64,), generator=generator,
                            device=device)  # fmt: skip
    lengths = lengths[lengths.cumsum(0) <= size].contiguous()
    offsets = lengths.cumsum(0) - lengths
    out = torch.empty_like(lengths)
    # What torch can compile: the folding, where all ranges are equally long and aligned.
    words = data.view(torch.int32).reshape(-1, 1 << (least // 4).bit_length() - 1)
    equal = torch.compile(lambda: folded(words.long() & 0xFFFFFFFF), dynamic=False)
    return Case(
        kernel=KERNEL,
        name=name,
        problem=problem_of(data, offsets),
        num_bytes=int(lengths.sum()),
        run=lambda config: crc32c(data, offsets, lengths, out=out, config=config),
        twin=partial(twin, data, offsets, lengths),
        agrees=torch.equal,
        baselines={"torch.compile (equal, aligned ranges)": equal},
    )

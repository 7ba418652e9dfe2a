"""Every kernel on a tiny problem, for NVIDIA's compute-sanitizer to watch:

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
        python -m iopipe.bench.kernels.sanitize
    compute-sanitizer --tool racecheck --error-exitcode 9 python -m iopipe.bench.kernels.sanitize

Stands beside the cases that are timed.  Invariant: what was launched under the tool is compared
with plain torch on the host, and a difference is an exit code of 1.

The variable gives each tensor an allocation of its own: in a piece of a large block, as torch's
allocator hands them out, the tool sees nothing out of bounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch

from iopipe.errors import DataError
from iopipe.kernels import checksum_twin, columns_twin, image_twin, ragged_twin
from iopipe.kernels.checksum import crc32c
from iopipe.kernels.columns import Affine, EncodedColumn, decode_column
from iopipe.kernels.image import transform_images
from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages
from iopipe.kernels.packed import Packed, parse_runs
from iopipe.kernels.ragged import gather_rows, join_rows, pad, unpad
from iopipe.kernels.token_batch import TokenBatch, TokenOptions, TokenRows
from iopipe.kernels.tokens import pack_tokens
from iopipe.kernels.tokens_twin import pack_tokens_twin, widened_twin
from iopipe.kernels.tuning import Config

_RUNS = Config(blocks={"run_bytes": 4096})
_LENGTHS = [1, 0, 700, 64, 3000, 2]


def _random(count: int, *, below: int = 256, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, below, (count,), generator=generator).to(dtype)


def images(device: str) -> bool:
    """Two photographs of odd sizes, cropped, flipped and resized to bfloat16."""
    sides, crops = [(37, 53), (8, 5)], [(1, 2, 30, 41), (0, 0, 8, 5)]
    data = _random(3 * sum(height * width for height, width in sides))
    options = ImageOptions(
        height=17, width=23, dtype=torch.bfloat16, mean=(0.5,) * 3, std=(0.2,) * 3
    )

    def batch(device: str) -> tuple[PackedImages, ImageParameters]:
        packed = PackedImages(
            data=_in_whole_words(data, device),
            offsets=torch.tensor([0, 3 * 37 * 53], device=device),
            heights=torch.tensor([37, 8], dtype=torch.int32, device=device),
            widths=torch.tensor([53, 5], dtype=torch.int32, device=device),
            channels=3,
        )
        boxes = torch.tensor(crops, dtype=torch.int32, device=device)
        flips = torch.tensor([True, False], device=device)
        return packed, ImageParameters(crops=boxes, flips=flips)

    result = transform_images(*batch(device), options).cpu()
    exact = image_twin.transform_images_twin(*batch("cpu"), options)
    return image_twin.agrees(result, exact, options)


def _in_whole_words(data: torch.Tensor, device: str) -> torch.Tensor:
    """The image kernel reads aligned words of four bytes, the last one of them as a whole: no
    allocation of a GPU ends within one, but the tool counts its bytes."""
    room = torch.empty(-(-len(data) // 4) * 4, dtype=torch.uint8, device=device)
    return room[: len(data)].copy_(data)


def tokens(device: str) -> bool:
    """Three rows of odd length, with documents that end in them."""
    rows = _random(3 * 301, below=9, dtype=torch.uint16).view(3, 301)
    options = TokenOptions(end_token=0, max_documents=512)
    ours = pack_tokens(TokenRows(rows.to(device)), options)
    theirs = pack_tokens_twin(widened_twin(rows), options)
    names = [field.name for field in fields(TokenBatch) if field.name != "state"]
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    return all(a is b is None or torch.equal(a.cpu(), b) for a, b in pairs)


def ragged(device: str) -> bool:
    """To padded, back, by number and side by side, in both forms of the copies."""
    offsets = torch.tensor([0, *np.cumsum(_LENGTHS).tolist()])
    values, rows = _random(int(offsets[-1])), torch.tensor([4, 2, 2, 0])
    total = int((offsets[rows + 1] - offsets[rows]).sum())
    there = [tensor.to(device) for tensor in (values, offsets, rows)]
    padded = ragged_twin.pad_twin(values, offsets, length=1023, fill=7)
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    for config in (None, _RUNS):
        ours.append(pad(there[0], there[1], length=1023, fill=7, config=config))
        ours.append(unpad(padded.to(device), there[1], total=len(values), config=config))
        ours += gather_rows(there[0], there[1], there[2], total=total, config=config)
        theirs.append(padded)
        theirs.append(ragged_twin.unpad_twin(padded, offsets, total=len(values)))
        theirs += ragged_twin.gather_rows_twin(values, offsets, rows, total=total)
    ours += join_rows([(there[0], there[1])] * 2)
    theirs += ragged_twin.join_rows_twin([(values, offsets)] * 2)
    return all(torch.equal(a.cpu(), b) for a, b in zip(ours, theirs, strict=True))


def columns(device: str) -> bool:
    """Codes of 12 bits with a bitmap, and codes in runs for valid rows only."""
    codes, bitmap = _random(3 * 500), _random(125)
    page = bytes([500 // 8 << 1 | 1]) + _random(12 * 63).numpy().tobytes()
    table = torch.from_numpy(parse_runs(page, bit_width=12, num_values=496))
    in_runs = torch.frombuffer(bytearray(page), dtype=torch.uint8)
    entries = _random(4096, dtype=torch.float32)

    def made(device: str) -> list[EncodedColumn]:
        dictionary = entries.to(device)
        valid = Packed(data=bitmap.to(device), bit_width=1, num_values=496)
        plain = Packed(data=codes.to(device), bit_width=12, num_values=496)
        runs = Packed(data=in_runs.to(device), bit_width=12, num_values=496, runs=table.to(device))
        return [
            EncodedColumn(codes=plain, validity=valid, dictionary=dictionary),
            EncodedColumn(codes=runs, validity=valid, dictionary=dictionary, compact=True),
        ]

    affine = Affine(mean=1.5, inv_std=0.5, fill=1.0)
    pairs = [
        (
            decode_column(ours, dtype=torch.float32, affine=affine).cpu(),
            columns_twin.decode_column(theirs, dtype=torch.float32, affine=affine),
        )
        for ours, theirs in zip(made(device), made("cpu"), strict=True)
    ]
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs)


def checksum(device: str) -> bool:
    """Ranges that are empty, short, unaligned and overlapping."""
    data = _random(9001)
    offsets, lengths = torch.tensor([0, 3, 8, 4000]), torch.tensor([9001, 0, 5, 4999])
    ours = crc32c(data.to(device), offsets.to(device), lengths.to(device))
    return torch.equal(ours.cpu(), checksum_twin.crc32c(data, offsets, lengths))


CHECKS: dict[str, Callable[[str], bool]] = {
    check.__name__: check for check in (images, tokens, ragged, columns, checksum)
}


def main() -> None:
    """Run all checks, or those that are named, and print how long each took."""
    parser = argparse.ArgumentParser(description="tiny launches for compute-sanitizer")
    parser.add_argument("checks", nargs="*", help=", ".join(CHECKS))
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    for name in options.checks or CHECKS:
        begun = time.monotonic()
        if not CHECKS[name](options.device):
            raise DataError(f"the kernels of {name!r} differ from plain torch")
        if options.device == "cuda":
            torch.cuda.synchronize()
        print(f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
    print("all agree", file=sys.stderr)


if __name__ == "__main__":
    main()

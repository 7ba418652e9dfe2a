"""What is refused before a launch, whichever kernel it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from iopipe.errors import PipelineError
from iopipe.kernels.checksum import crc32c
from iopipe.kernels.columns import EncodedColumn, decode_column
from iopipe.kernels.image import transform_images
from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages
from iopipe.kernels.packed import Packed
from iopipe.kernels.ragged import gather_rows, join_rows, pad, unpad
from iopipe.kernels.token_batch import TokenOptions, TokenRows
from iopipe.kernels.tokens import pack_tokens

VALUES = torch.arange(8, dtype=torch.uint8)
ENDS = torch.tensor([0, 8])
SIDES = torch.tensor([2], dtype=torch.int32)
CALLS: dict[str, Callable[[], object]] = {
    "pad": lambda: pad(VALUES, ENDS, length=9),
    "unpad": lambda: unpad(VALUES.view(1, 8), ENDS, total=8),
    "gather_rows": lambda: gather_rows(VALUES, ENDS, ENDS[:1], total=8),
    "join_rows": lambda: join_rows([(VALUES, ENDS)]),
    "crc32c": lambda: crc32c(VALUES, ENDS[:1], ENDS[1:]),
    "decode_column": lambda: decode_column(
        EncodedColumn(codes=Packed(data=VALUES, bit_width=8, num_values=8))
    ),
    "pack_tokens": lambda: pack_tokens(
        TokenRows(VALUES.view(torch.uint16).view(1, 4)),
        TokenOptions(end_token=None, max_documents=1),
    ),
    "transform_images": lambda: transform_images(
        PackedImages(data=VALUES, offsets=ENDS[:1], heights=SIDES, widths=SIDES, channels=2),
        ImageParameters(crops=torch.tensor([[0, 0, 2, 2]], dtype=torch.int32)),
        ImageOptions(height=2, width=2),
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_tensor_on_the_cpu_is_one_line(
    call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(PipelineError, match="is on the CPU, which no kernel can read"):
        call()

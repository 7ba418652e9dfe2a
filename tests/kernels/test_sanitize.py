"""What compute-sanitizer is given to watch is right, and notices what is not."""

from __future__ import annotations

import pytest
import torch

from iopipe.bench.kernels import sanitize
from iopipe.errors import DataError


@pytest.mark.parametrize("name", sanitize.CHECKS)
def test_every_check_agrees(device: str, name: str) -> None:
    assert sanitize.CHECKS[name](device)


def test_a_difference_is_an_error(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(data: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.zeros(4, dtype=torch.int64, device=data.device)

    monkeypatch.setattr(sanitize, "crc32c", wrong)
    monkeypatch.setattr("sys.argv", ["sanitize", "checksum", "--device", device])
    with pytest.raises(DataError, match="'checksum' differ"):
        sanitize.main()

"""Kernel tests run in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import pytest
import torch

# Triton reads this when a kernel is decorated, so it must be set before any is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"

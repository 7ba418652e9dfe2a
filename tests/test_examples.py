"""Every example runs and reaches what it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LEAST = {
    "meter_any_loader.py": 0.1,
    "replace_dataloader.py": 0.95,
    "shard_photographs.py": 1.0,
    "pack_tokens.py": 1.0,
    "tokenise_text.py": 1.0,
    "train_two_ranks.py": 1.0,
    "train_webdataset.py": 0.95,
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LEAST)


@pytest.mark.parametrize("name", sorted(LEAST))
def test_example(name: str) -> None:
    assert runpy.run_path(str(EXAMPLES / name))["main"]() >= LEAST[name]

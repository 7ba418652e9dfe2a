"""The README: its numbers are those of the results, its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import iopipe
from iopipe.bench.readme import BEGIN, END, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_come_from_the_results() -> None:
    between = README.partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == tables(ROOT / "bench" / "results")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    raw = io.BytesIO()
    Image.new("RGB", (300, 260), "teal").save(raw, "JPEG")
    with iopipe.DatasetWriter(tmp_path, max_samples=26) as writer:
        for number in range(26 * 20):
            writer.write({"__key__": str(number), "jpg": raw.getvalue(), "cls": number})
    for path in tmp_path.glob("*.tar"):
        path.rename(tmp_path / path.name.replace("shard-", "train-"))
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.strip().splitlines()) <= 14
    seen: list[Any] = []

    def train_step(pixels: Any, labels: Any) -> None:
        seen.append((pixels.shape, labels.shape))

    monkeypatch.chdir(tmp_path)
    small = example.replace('"cuda"', '"cpu"').replace("num_epochs=10", "num_epochs=1")
    exec(compile(small, "README.md", "exec"), {"train_step": train_step})
    assert [shape for shape, _ in seen] == [(256, 224, 224, 3)] * 2 + [(8, 224, 224, 3)]

"""The README: its numbers are those of the results, its example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import iopipe
from iopipe.bench.readme import BEGIN, END, kernel_tables, store_tables, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_come_from_the_results() -> None:
    kernels = (ROOT / "iopipe" / "kernels" / "README.md").read_text()
    storage = (ROOT / "iopipe" / "storage" / "README.md").read_text()
    parts = ((README, tables), (kernels, kernel_tables), (storage, store_tables))
    for readme, expected in parts:
        between = readme.partition(BEGIN)[2].partition(END)[0]
        assert between.strip() == expected(ROOT / "bench" / "results")


def test_the_table_of_kernels_with_rows_and_without(tmp_path: Path) -> None:
    assert "Not measured yet: `iopipe bench kernels" in kernel_tables(tmp_path)
    content = {
        "command": "iopipe bench kernels --json FILE",
        "environment": {
            "date": "2026-01-02", "gpu": "NVIDIA X1", "driver": "1", "torch": "2", "triton": "3.6.0"
        },
        "cache": {"copy_peak_bytes_per_second": 4.25e12, "empty_launch_microseconds": 2.04},
        "rows": [
            {
                "kernel": "pad", "shape": "small", "fraction_of_copy_peak": 0.955,
                "microseconds": {"median": 10.0, "min": 9.5, "max": 1234.5},
                "baselines": {"torch.compile": {"median": 12.34, "min": 1, "max": 99}},
            }
        ],
    }  # fmt: skip
    path = tmp_path / "kernels_h200.json"
    path.write_text(json.dumps(content))
    lines = kernel_tables(tmp_path).splitlines()
    assert lines[2] == "| pad | small | 10.0 (9.5 to 1,234.5) | 0.95 | torch.compile 12.3 (1.23) |"
    assert lines[4].startswith("2026-01-02, NVIDIA X1, driver 1, torch 2, triton 3.6.0: `iopipe")
    assert "4,250 GB/s" in lines[4]
    path.write_text(json.dumps({**content, "rows": []}))
    assert "Not measured yet" in kernel_tables(tmp_path)


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

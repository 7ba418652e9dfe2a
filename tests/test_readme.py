"""The README: its numbers are those of the results, its example runs."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import iopipe
from iopipe import cli
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


PLACES = ("", "iopipe/", "iopipe/*/", "bench/*/")
READMES = [path for place in PLACES for path in sorted(ROOT.glob(f"{place}README.md"))]


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_what_a_readme_tells_to_type_exists(path: Path) -> None:
    text = path.read_text()
    for line in re.findall(r"^    iopipe ([a-z].*)$", text, re.MULTILINE):
        parser = cli._parser()
        for word in re.split(r"   |#| -- ", line)[0].split():
            below = _subparsers(parser)
            if below:
                assert word in below, line
                parser = below[word]
            elif (flag := word.strip("[],;")).startswith("--"):
                assert flag in parser._option_string_actions, line
    for call in _calls(text):
        function = getattr(iopipe, call.func.attr)  # type: ignore[attr-defined]
        shortened = any(isinstance(one, ast.Constant) and one.value is ... for one in call.args)
        if not shortened and call.func.attr != "meter":  # type: ignore[attr-defined]
            keywords = {one.arg: one for one in call.keywords if one.arg}
            inspect.signature(function).bind(*call.args, **keywords)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _calls(text: str) -> list[ast.Call]:
    """Every `iopipe.name(...)` up to its closing bracket."""
    calls: list[ast.Call] = []
    for match in re.finditer(r"iopipe\.\w+\(", text):
        end = match.end()
        while text.count("(", match.start(), end) > text.count(")", match.start(), end):
            end += 1
        found = ast.parse(text[match.start() : end], mode="eval").body
        assert isinstance(found, ast.Call)
        calls.append(found)
    return calls


@pytest.mark.skipif(
    not (ROOT / "CHANGELOG.md").exists(), reason="beside a wheel lies a part of the checkout"
)
def test_the_links_of_the_readmes_lead_somewhere() -> None:
    for path in READMES:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


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

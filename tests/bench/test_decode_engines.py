"""The benchmark of the engines, rehearsed on the CPU: rows, failures and what is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pictures import encoded, picture

from iopipe.bench import decode_engines, decode_parity


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(encoded(picture(120, 150, number)))
    return folder


@pytest.mark.skipif(
    not decode_engines._PEERS.is_dir(), reason="the peers' scripts are part of a checkout alone"
)
def test_a_rehearsal_measures_what_works_and_names_what_does_not(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "result.json"
    monkeypatch.setattr(decode_engines, "_swept", lambda folder, options: {})
    arguments = ["--images", images, "--json", result, "--device", "cpu", "--samples", "40"]
    arguments += ["--batch", "4", "--rounds", "1", "--seconds", "0.1"]
    command = ["bench", *map(str, arguments), "--engines", "cpu", "nvimgcodec"]
    monkeypatch.setattr(sys, "argv", command)
    decode_engines.main()
    written: dict[str, Any] = json.loads(result.read_text())
    rows = {row["name"]: row for row in written["rows"]}
    assert rows["iopipe cpu"]["samples_per_second"] > 0
    assert rows["iopipe cpu, workers"]["runs"]
    assert "exit code 1" in rows["iopipe nvimgcodec"]["error"]
    assert "samples_per_second" not in rows["iopipe nvimgcodec"]
    assert str(tmp_path) not in written["command"]


def test_the_exact_engine_is_within_one_unit_and_the_scaled_one_is_not(images: Path) -> None:
    contents = [path.read_bytes() for path in sorted(images.iterdir())]
    references = [decode_parity._reference(decode_parity._batch(contents, 0))]
    exact, scaled = (
        decode_parity._row(way, decode_parity._errors(way, contents, references))
        for way in (
            decode_parity.Way(engine="cpu"),
            decode_parity.Way(engine="cpu", fidelity="scaled"),
        )
    )
    assert exact["max_error"] <= 1 < scaled["max_error"]
    assert exact["num_images"] == 6 and np.isfinite(scaled["mean_error"])

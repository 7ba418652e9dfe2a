"""The demo in small: both loaders, the same crops, a page at the end."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import iopipe
from iopipe.bench.demo import DemoSettings, run_demo
from iopipe.bench.photographs import PHOTOGRAPHS, CropSettings, make_crops

SMALL = CropSettings(num_train=64, num_held_out=32, max_pixels=300)


def test_crops_are_distinct_complete_and_the_same_again(tmp_path: Path) -> None:
    first = make_crops(tmp_path / "a", SMALL)
    second = make_crops(tmp_path / "b", SMALL)
    contents = []
    for crops in (first, second):
        for folder in (crops.train, crops.held_out):
            with iopipe.read(folder).run() as run:
                contents.append({sample["jpg"]: sample["cls"] for sample in run})
    train, held_out = contents[:2]
    assert contents[2:] == [train, held_out]
    assert (len(train), len(held_out)) == (64, 32)
    assert not train.keys() & held_out.keys()
    loose = {path.read_bytes(): path.parent.name for path in first.loose.glob("*/*.jpg")}
    assert loose == {content: label.decode() for content, label in train.items()}
    assert set(loose.values()) == {str(number) for number in range(len(PHOTOGRAPHS))}


def test_finished_crops_are_taken_again_and_others_are_cut_anew(tmp_path: Path) -> None:
    cut: list[int] = []
    for settings in (SMALL, SMALL, CropSettings(num_train=16, num_held_out=16)):
        make_crops(tmp_path, settings, on_crop=lambda: cut.append(1))
    assert len(cut) == 96 + 32


def test_crops_that_were_left_half_cut_are_never_taken(tmp_path: Path) -> None:
    first = make_crops(tmp_path, SMALL)
    whole = {path.name: path.read_bytes() for path in first.loose.glob("*/*.jpg")}

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_crops(tmp_path, CropSettings(num_train=16, num_held_out=16), on_crop=interrupt)
    again = make_crops(tmp_path, SMALL)
    assert {path.name: path.read_bytes() for path in again.loose.glob("*/*.jpg")} == whole


def test_crops_have_their_natural_size(tmp_path: Path) -> None:
    crops = make_crops(tmp_path, SMALL)
    with iopipe.read(crops.train).decode().run() as run:
        shapes = np.array([sample["jpg"].shape[:2] for sample in run])
    assert shapes.min() >= 256
    assert shapes.max() <= 300


def test_the_demo_trains_twice_and_writes_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DemoSettings(crops=SMALL, size=32, batch_size=16, num_epochs=2, num_workers=1)
    with warnings.catch_warnings():
        # Python 3.12 warns of torch's forked workers wherever a thread is alive.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = run_demo(tmp_path, device="cpu", settings=settings)
    assert [result.num_samples for result in results] == [128, 128]
    for result in results:
        assert result.report.num_steps == 2 * (4 - 1)
        assert 0 <= result.report.attributed_stall_fraction <= 1
        assert 0 <= result.accuracy <= 1
        assert result.cpu_seconds > 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["accuracy"] for row in rows] == [result.accuracy for result in results]
    page = (tmp_path / "report.html").read_text()
    assert all(result.name in page for result in results)
    printed = capsys.readouterr().out
    assert "CPU s per 1000" in printed
    assert "host thread" in printed

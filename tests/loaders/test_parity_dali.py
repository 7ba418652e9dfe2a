"""DALI on the CPU against the engine 'cpu', and both against a full decode; DALI as a user's."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from fakes.pictures import (
    damaged_pictures,
    encoded,
    picture,
    resized,
    samples_of,
    sound_pictures,
)
from PIL import Image

import iopipe
from iopipe.errors import DataError
from iopipe.loaders.decode import crops, make_decoder, open_engine
from iopipe.stages import ImageOptions

pytestmark = pytest.mark.dali

SIZE = (64, 96)


@pytest.mark.parametrize("crop", ["none", "center", "random"])
def test_dali_on_the_cpu_equals_the_cpu_engine(crop: str) -> None:
    contents = list(sound_pictures().values())
    options = ImageOptions(size=SIZE, crop=crop, flip=True, engine="dali")
    samples = samples_of(contents)
    held = open_engine(options, "cpu")
    try:
        by_dali = held(samples).columns["jpg"]
        again = held(samples).columns["jpg"]
    finally:
        held.close()
    by_cpu = make_decoder(ImageOptions(size=SIZE, crop=crop, flip=True))(samples).columns["jpg"]
    assert held.cause == "decode"
    assert np.array_equal(by_dali, again)
    difference = np.abs(by_dali.astype(int) - by_cpu)
    for row, name in enumerate(sound_pictures()):
        assert difference[row].max() <= 1, name


def test_dali_is_within_one_unit_of_a_full_decode() -> None:
    names = ["plain", "full chroma", "progressive", "grey", "turned", "one row", "huge"]
    contents = [sound_pictures()[name] for name in names]
    options = ImageOptions(size=SIZE, crop="random", flip=True, engine="dali")
    samples = samples_of(contents, first=40)
    whole = [np.asarray(Image.open(io.BytesIO(c)).convert("RGB")) for c in contents]
    boxes = crops.boxes(samples, np.array([one.shape[:2] for one in whole]), options)
    mirrored = crops.flips(samples, options)
    held = open_engine(options, "cpu")
    found = held(samples).columns["jpg"]
    held.close()
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = resized(whole[row][top : top + height, left : left + width], SIZE)
        got = found[row][:, ::-1] if mirrored[row] else found[row]
        assert np.abs(got - expected).max() <= 1.01, names[row]


@pytest.mark.parametrize("name", sorted(damaged_pictures()))
def test_damage_is_named_and_what_is_sound_goes_on(name: str) -> None:
    good = encoded(picture(90, 120))
    options = ImageOptions(size=SIZE, engine="dali")
    held = open_engine(options, "cpu")
    try:
        with pytest.raises(DataError, match="field 'jpg'") as caught:
            held(samples_of([good, good, damaged_pictures()[name], good]))
        assert caught.value.row == 2
        assert held(samples_of([good] * 3)).columns["jpg"].shape == (3, *SIZE, 3)
    finally:
        held.close()


def test_images_that_dali_is_not_given_are_counted_by_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pictures = sound_pictures()
    contents = [pictures[name] for name in ("plain", "png", "palette png", "cmyk", "gif")]
    held = open_engine(ImageOptions(size=SIZE, engine="dali"), "cpu")
    held(samples_of(contents))
    held(samples_of(contents))
    held.close()
    notes = "\n".join(held.notes())
    assert "left 4 images to the CPU: PNG is none of its formats" in notes
    assert "left 2 images to the CPU: JPEG in CMYK or YCCK is none" in notes
    assert sum("PNG is none of its formats" in record.message for record in caplog.records) == 1


def _write(folder: Path, num_samples: int = 50) -> Path:
    with iopipe.DatasetWriter(folder, max_samples=20) as writer:
        for number in range(num_samples):
            content = encoded(picture(60 + number, 80, number))
            writer.write({"__key__": f"{number:03d}", "jpg": content, "cls": number})
    return folder


def test_a_run_by_dali_delivers_what_a_run_by_the_cpu_does(tmp_path: Path) -> None:
    reading = iopipe.read(_write(tmp_path)).shuffle(seed=4)
    options = {"size": 48, "crop": "random", "flip": True}
    by_cpu = reading.decode(**options).batch(16)
    by_dali = reading.decode(**options, engine="dali").batch(16)
    assert "decode by dali (2 threads" in by_dali.describe()
    with by_cpu.run(num_epochs=2) as expected, by_dali.run(num_epochs=2) as found:
        for one, other in zip(expected, found, strict=True):
            assert one["__key__"] == other["__key__"]
            assert (one["jpg"].int() - other["jpg"].int()).abs().max() <= 1
        assert found.report().notes == ()


def test_a_damaged_sample_is_skipped_by_name(tmp_path: Path) -> None:
    with iopipe.DatasetWriter(tmp_path) as writer:
        for number in range(12):
            content = encoded(picture(60, 80, number))
            cut = content[:900] if number == 7 else content
            writer.write({"__key__": str(number), "jpg": cut})
    pipeline = iopipe.read(tmp_path, on_error="skip").decode(size=16, engine="dali").batch(12)
    with pipeline.run() as run:
        (batch,) = run
        (example,) = run.report().errors.examples
    assert batch["__key__"] == [str(number) for number in range(12) if number != 7]
    assert "key '7'" in example and ".tar" in example and "offset" in example

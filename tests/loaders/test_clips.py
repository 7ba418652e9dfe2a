"""Which frames are asked for, and what is refused, without a decoder of videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.pictures import samples_of
from fakes.videos import video

import iopipe
from iopipe.draws import uniform
from iopipe.errors import DataError, PipelineError
from iopipe.loaders.decode import clips, crops, make_decoder
from iopipe.loaders.decode.clips import starts, what_is_wanted
from iopipe.stages import Clip, ImageOptions

CLIP = Clip(num_frames=4, stride=3)
OPTIONS = ImageOptions(size=(24, 32), engine="dali", clip=CLIP)


def _lengths(value: int, num_samples: int = 4000) -> np.ndarray:
    return np.full(num_samples, value, np.int64)


def test_every_place_where_a_clip_fits_is_equally_likely() -> None:
    samples = samples_of([b""] * 4000)
    found = starts(samples, _lengths(17), CLIP)
    counts = np.bincount(found)
    assert len(counts) == 17 - clips.span(CLIP) + 1 == 8
    assert counts.min() > 420 and counts.max() < 580  # 500 expected, 21 its deviation
    assert not starts(samples, _lengths(10), CLIP).any()


def test_a_start_depends_on_seed_epoch_and_id_alone() -> None:
    samples = samples_of([b""] * 40, first=100)
    found = starts(samples, _lengths(200, 40), CLIP)
    draws = uniform(samples.ids, seed=3, epoch=1, op="clip", num_draws=1)[:, 0]
    assert found.tolist() == [int(draw * 191) for draw in draws]
    part = starts(samples.take([7, 21]), _lengths(200, 2), CLIP)
    assert part.tolist() == found[[7, 21]].tolist()
    samples.epoch = 2
    assert (starts(samples, _lengths(200, 40), CLIP) != found).sum() > 35


def test_the_middle_and_the_beginning_are_where_they_are() -> None:
    samples = samples_of([b""] * 3)
    lengths = np.array([10, 11, 30])
    assert starts(samples, lengths, replace(CLIP, start="center")).tolist() == [0, 0, 10]
    assert starts(samples, lengths, replace(CLIP, start="first")).tolist() == [0, 0, 0]


def test_region_and_flip_are_those_of_an_image() -> None:
    options = replace(OPTIONS, crop="random", flip=True)
    samples = samples_of([video(num_frames=12 + n) for n in range(5)], first=30, name="mp4")
    wanted = what_is_wanted(samples.columns["mp4"], samples, options)
    sizes = np.array([[48, 64]] * 5)
    assert np.array_equal(wanted.boxes, crops.boxes(samples, sizes, options))
    assert np.array_equal(wanted.mirrored, crops.flips(samples, options))
    assert [video.num_frames for video in wanted.videos] == [12, 13, 14, 15, 16]


def test_videos_that_are_too_short_or_too_large_are_named() -> None:
    samples = samples_of([video(num_frames=12), video(num_frames=9)], name="mp4")
    with pytest.raises(DataError, match="has 9 frames, and 4 with stride 3 need 10") as caught:
        what_is_wanted(samples.columns["mp4"], samples, OPTIONS)
    assert caught.value.row == 1
    samples = samples_of([video(num_frames=12)], name="mp4")
    enough = 4 * 48 * 64
    assert len(what_is_wanted(samples.columns["mp4"], samples, replace(OPTIONS, max_pixels=enough)))
    with pytest.raises(DataError, match=r"4 frames of 64 x 48 have more pixels than") as caught:
        what_is_wanted(samples.columns["mp4"], samples, replace(OPTIONS, max_pixels=enough - 1))
    assert caught.value.row == 0


@pytest.mark.parametrize("engine", ["cpu", "nvimgcodec", "hybrid"])
def test_engines_that_decode_no_videos_say_which_does(engine: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"no videos; use decode\(engine='dali'\)"):
        _reading(tmp_path).decode(size=32, engine=engine, clip=CLIP)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": Clip(num_frames=0)}, "a clip of 0 frames with stride 1: give at least 1 of both"),
        ({"clip": Clip(num_frames=4, stride=0)}, "4 frames with stride 0"),
        ({"clip": Clip(num_frames=4, start="last")}, "start is 'last'; use 'random', 'center'"),
        ({"clip": CLIP, "size": None}, r"needs a size; give decode\(size=...\)"),
        ({"clip": CLIP, "fidelity": "scaled"}, "full resolution; leave fidelity='scaled' out"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(
    options: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match=said):
        _reading(tmp_path).decode(**{"size": 32, "engine": "dali", **options})


def test_without_a_clip_videos_stay_bytes() -> None:
    content = video(num_frames=3)
    samples = samples_of([content], name="mp4")
    made = make_decoder(ImageOptions())(samples).columns["mp4"]
    assert [bytes(raw) for raw in made] == [content]


def _reading(folder: Path) -> iopipe.Pipeline:
    with iopipe.DatasetWriter(folder) as writer:
        writer.write({"__key__": "0", "mp4": b"is not looked at"})
    return iopipe.read(folder)

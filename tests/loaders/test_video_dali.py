"""Clips by DALI on the CPU against the frames that FFmpeg decodes; from shards to batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes.pictures import encoded, picture, resized, samples_of
from fakes.videos import (
    HEIGHT,
    KINDS,
    KINDS_ON_GPU,
    WIDTH,
    by_ffmpeg,
    damaged_videos,
    hidden,
    numbers_of,
    video,
)

import iopipe
from iopipe.errors import DataError, PipelineError
from iopipe.kernels.image_twin import transform_images_twin
from iopipe.loaders.decode import crops, make_decoder, open_engine
from iopipe.loaders.decode.clips import starts
from iopipe.loaders.decode.dali_graph import Graph
from iopipe.loaders.decode.dali_video import VideosOnDevice
from iopipe.loaders.decode.on_device import DeviceRows
from iopipe.loaders.decode.tracks import read_video
from iopipe.protocols import Samples
from iopipe.stages import Clip, ImageOptions

pytestmark = pytest.mark.dali

CLIP = Clip(num_frames=5, stride=3)
AS_STORED = ImageOptions(size=(HEIGHT, WIDTH), engine="dali", clip=CLIP)
ROUNDING = 0.51
"""Of 255: what DALI may be off from exact arithmetic on the Y'CbCr that another build of FFmpeg
decodes."""


def _decoded(samples: Samples, options: ImageOptions) -> Any:
    held = open_engine(options, "cpu")
    try:
        return held(samples).columns["mp4"]
    finally:
        held.close()


def _numbers(first: int, clip: Clip = CLIP) -> list[int]:
    return [first + clip.stride * place for place in range(clip.num_frames)]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_that_were_drawn_and_their_pixels_those_of_ffmpeg(kind: str) -> None:
    contents = [video(kind, num_frames=number) for number in (13, 20, 32, 47)] * 4
    samples = samples_of(contents, first=70, name="mp4")
    found = _decoded(samples, AS_STORED)
    assert found.shape == (16, 5, HEIGHT, WIDTH, 3) and found.dtype == np.uint8
    frames = [by_ffmpeg(content) for content in contents[:4]] * 4
    firsts = starts(samples, np.array([len(one) for one in frames]), CLIP)
    assert len({*firsts.tolist()}) > 6
    for row, first in enumerate(firsts.tolist()):
        assert numbers_of(found[row]) == _numbers(first)
        expected = frames[row][first : first + 13 : 3]
        assert np.abs(found[row] - expected).max() <= ROUNDING


@pytest.mark.parametrize("place", ["first", "center"])
def test_a_clip_may_begin_at_a_place_that_is_not_drawn(place: Any) -> None:
    samples = samples_of([video(num_frames=30)], name="mp4")
    clip = replace(CLIP, start=place)
    found = _decoded(samples, replace(AS_STORED, clip=clip))
    assert numbers_of(found[0]) == _numbers({"first": 0, "center": 8}[place])


@pytest.mark.parametrize("keyframe_every", [1, 7, 100])
def test_every_frame_of_a_video_is_found(keyframe_every: int) -> None:
    content = video(num_frames=40, keyframe_every=keyframe_every)
    clip = Clip(num_frames=1)
    samples = samples_of([content] * 200, name="mp4")
    found = _decoded(samples, replace(AS_STORED, clip=clip))
    expected = starts(samples, np.full(200, 40), clip).tolist()
    assert numbers_of(found[:, 0]) == expected and len({*expected}) > 35
    whole = replace(AS_STORED, clip=Clip(num_frames=40))
    assert numbers_of(_decoded(samples.take([0]), whole)[0]) == [*range(40)]


def test_frames_that_are_not_shown_do_not_count() -> None:
    content = hidden(video("vp8 in webm", keyframe_every=40), 5)
    samples = samples_of([content], name="mp4")
    found = _decoded(samples, replace(AS_STORED, clip=Clip(num_frames=31)))
    assert numbers_of(found[0]) == [number for number in range(32) if number != 5]


def test_crop_resize_and_flip_are_those_of_an_image() -> None:
    """Of odd sizes, against an exact resize of FFmpeg's frames."""
    sizes = [(47, 63), (150, 90), (66, 201), (9, 9)]
    contents = [video(num_frames=14, size=size) for size in sizes] * 3
    options = replace(AS_STORED, size=(33, 41), crop="random", flip=True)
    samples = samples_of(contents, first=9, name="mp4")
    found = _decoded(samples, options)
    boxes = crops.boxes(samples, np.array(sizes * 3), options)
    mirrored = crops.flips(samples, options)
    firsts = starts(samples, np.full(12, 14), CLIP)
    assert mirrored.any() and not mirrored.all()
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        frames = by_ffmpeg(contents[row])[firsts[row] :: 3]
        for frame, made in zip(frames, found[row], strict=False):
            expected = resized(frame[top : top + height, left : left + width], (33, 41))
            got = made[:, ::-1] if mirrored[row] else made
            assert np.abs(got - expected).max() <= ROUNDING + 1.01, sizes[row % 4]


@pytest.mark.parametrize("name", sorted(damaged_videos()))
def test_damage_is_named_and_what_is_sound_goes_on(name: str) -> None:
    good = video()
    held = open_engine(AS_STORED, "cpu")
    try:
        with pytest.raises(DataError, match="field 'mp4'") as caught:
            held(samples_of([good, good, damaged_videos()[name], good], name="mp4"))
        assert caught.value.row == 2
        found = held(samples_of([good] * 3, name="mp4")).columns["mp4"]
        assert len(found) == 3 and numbers_of(found[0])[1] == numbers_of(found[0])[0] + 3
    finally:
        held.close()


@pytest.mark.parametrize("kind", KINDS_ON_GPU)
def test_codecs_of_the_gpu_alone_are_named_with_the_remedy(kind: str) -> None:
    codec = kind.partition(" ")[0]
    with pytest.raises(DataError, match=rf"is {codec}, which DALI decodes on a GPU.*VP9") as caught:
        _decoded(samples_of([video(), video(kind)], name="mp4"), AS_STORED)
    assert caught.value.row == 1


def test_a_container_that_counts_more_frames_than_there_are_is_damaged() -> None:
    block_of_one_byte = b"\xa3\x85\x81\x7f\x00\x00\x00"
    wrong = video("vp9 in webm", num_frames=20, live="1") + block_of_one_byte
    assert read_video(wrong).num_frames == 21
    sound = video(num_frames=21)
    with pytest.raises(DataError, match="field 'mp4': DALI ") as caught:
        _decoded(
            samples_of([sound, wrong], name="mp4"), replace(AS_STORED, clip=Clip(num_frames=21))
        )
    assert caught.value.row == 1


def test_dali_is_given_views_of_the_bytes_that_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [np.frombuffer(video(num_frames=number), np.uint8) for number in (13, 14)]
    fed: list[Any] = []
    plain = Graph.run

    def run(self: Graph, feeds: Any, *others: Any) -> Any:
        fed.extend(feeds["encoded"])
        return plain(self, feeds, *others)

    monkeypatch.setattr(Graph, "run", run)
    samples = samples_of([], name="mp4")
    samples = replace(samples, ids=np.arange(2), keys=["0", "1"])
    samples.columns["mp4"] = [memoryview(content) for content in contents]
    _decoded(samples, AS_STORED)
    addresses = [content.__array_interface__["data"][0] for content in contents]
    assert [array.__array_interface__["data"][0] for array in fed] == addresses


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_way_of_a_gpu_ends_in_the_same_pixels(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this host: frames packed behind each other, and the kernel's twin for the kernel."""

    def transformed(images: Any, parameters: Any, options: Any) -> torch.Tensor:
        exact = transform_images_twin(images, parameters, options)
        values = (exact * 255).round() if options.dtype == torch.uint8 else exact
        return values.to(options.dtype).contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr("iopipe.kernels.image.transform_images", transformed)
    sizes = [(48, 64), (47, 63), (150, 90), (66, 201)]
    contents = [video(num_frames=14, size=size) for size in sizes]
    options = replace(AS_STORED, size=(33, 41), crop="random", flip=True)
    samples = samples_of(contents, first=9, name="mp4")
    expected = _decoded(samples, options)
    on_device = VideosOnDevice(replace(options, dtype=dtype), torch.device("cpu"), num_threads=2)
    column = on_device("mp4", samples.columns["mp4"], samples)
    assert isinstance(column, DeviceRows) and column.tensor.is_contiguous()
    assert column.tensor.dtype == getattr(torch, dtype)
    found = column.tensor.numpy().astype(float) * (255 if dtype == "float32" else 1)
    assert found.shape == (4, 5, 33, 41, 3) and np.abs(found - expected).max() <= 1.01
    bad = samples_of([contents[0], damaged_videos()["frames of noise"]], name="mp4")
    with pytest.raises(DataError, match="DALI cannot decode the video") as caught:
        on_device("mp4", bad.columns["mp4"], bad)
    assert caught.value.row == 1
    on_device.close()


# ---- runs ----------------------------------------------------------------------------


NUM_SAMPLES = 24


def _content(number: int) -> bytes:
    return video(("vp9 in mp4", "vp8 in webm", "mjpeg in mkv")[number % 3], num_frames=14 + number)


def _as_webdataset(folder: Path) -> Path:
    with iopipe.DatasetWriter(folder, max_samples=10) as writer:
        for number in range(NUM_SAMPLES):
            writer.write({"__key__": f"{number:02d}", "mp4": _content(number), "cls": number})
    return folder


def _as_arrow(folder: Path) -> Path:
    numbers = range(NUM_SAMPLES)
    table = pa.table({"mp4": [_content(number) for number in numbers], "cls": [*numbers]})
    with (
        pa.OSFile(str(folder / "videos.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=7)
    return folder / "videos.arrow"


def _as_files(folder: Path) -> Path:
    for number in range(NUM_SAMPLES):
        (folder / f"{number:02d}.mp4").write_bytes(_content(number))
        (folder / f"{number:02d}.cls").write_text(str(number))
    return folder


@pytest.mark.parametrize("written", [_as_webdataset, _as_arrow, _as_files])
def test_a_run_delivers_the_clips_of_each_epoch(
    written: Callable[[Path], Path], tmp_path: Path
) -> None:
    pipeline = (
        iopipe.read(written(tmp_path))
        .shuffle(seed=4)
        .decode(size=(HEIGHT, WIDTH), engine="dali", clip=iopipe.Clip(num_frames=4, stride=2))
        .batch(10)
    )
    assert "decode by dali (2 threads" in pipeline.describe()
    seen: dict[int, set[int]] = {}
    with pipeline.run(num_epochs=3) as run:
        for batch in run:
            assert batch["mp4"].shape[1:] == (4, HEIGHT, WIDTH, 3)
            for label, clip in zip(batch["cls"].tolist(), batch["mp4"].numpy(), strict=True):
                first, *others = numbers_of(clip)
                assert others == [first + 2, first + 4, first + 6] and first + 6 < 14 + label
                seen.setdefault(label, set()).add(first)
        assert run.report().notes == ()
    assert len(seen) == NUM_SAMPLES and sum(map(len, seen.values())) > 2 * NUM_SAMPLES


def test_a_resumed_run_sees_the_same_clips(tmp_path: Path) -> None:
    reading = iopipe.read(_as_webdataset(tmp_path)).shuffle(seed=4)
    pipeline = reading.decode(size=24, engine="dali", clip=Clip(num_frames=2)).batch(5)
    with pipeline.run() as run:
        expected = [batch["mp4"] for batch in run]
    with pipeline.run() as run:
        next(run), next(run)
        state = run.state_dict()
    with pipeline.run() as run:
        run.load_state_dict(state)
        found = [batch["mp4"] for batch in run]
    assert len(found) == 3
    assert all((one == other).all() for one, other in zip(found, expected[2:], strict=True))


def test_damaged_and_short_videos_are_left_out_by_name(tmp_path: Path) -> None:
    odd = {3: video()[:900], 7: video(num_frames=5), 8: damaged_videos()["frames of noise"]}
    with iopipe.DatasetWriter(tmp_path) as writer:
        for number in range(12):
            content = odd.get(number, video(num_frames=20))
            writer.write({"__key__": str(number), "mp4": content})
    reading = iopipe.read(tmp_path, on_error="skip")
    with reading.decode(size=16, engine="dali", clip=CLIP).batch(12).run() as run:
        (batch,) = run
        examples = "\n".join(run.report().errors.examples)
    assert batch["__key__"] == [str(number) for number in range(12) if number not in odd]
    assert len(batch["mp4"]) == 9
    for number, said in ((3, "was cut off"), (7, "has 5 frames"), (8, "cannot decode the video")):
        (line,) = [line for line in examples.splitlines() if f"key '{number}'" in line]
        assert said in line and ".tar" in line and "offset" in line and "field 'mp4'" in line


def test_a_damaged_video_ends_the_run_by_name(tmp_path: Path) -> None:
    with iopipe.DatasetWriter(tmp_path) as writer:
        for number in range(4):
            content = video() if number != 2 else video()[:1000]
            writer.write({"__key__": f"n{number}", "mp4": content})
    pipeline = iopipe.read(tmp_path).decode(size=16, engine="dali", clip=CLIP).batch(4)
    with pipeline.run() as run, pytest.raises(DataError, match=r"key 'n2'.*field 'mp4'"):
        next(run)


def test_images_and_videos_of_a_sample_are_decoded_side_by_side() -> None:
    pictures = [encoded(picture(60 + number, 80, number)) for number in range(6)]
    videos = [video(num_frames=14 + number) for number in range(6)]
    samples = samples_of(pictures)
    samples.columns["clip.mp4"] = [memoryview(content) for content in videos]
    options = replace(AS_STORED, crop="random", flip=True)
    held = open_engine(options, "cpu")
    made = held(samples).columns
    held.close()
    by_cpu = make_decoder(replace(options, engine="cpu", clip=None))(samples).columns["jpg"]
    assert np.abs(made["jpg"].astype(int) - by_cpu).max() <= 1
    assert made["clip.mp4"].shape == (6, 5, HEIGHT, WIDTH, 3)


def test_a_dali_pipeline_of_a_user_is_fed_videos(tmp_path: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    reading = iopipe.read(_as_webdataset(tmp_path)).shuffle(seed=9)
    source = iopipe.external_source(reading.batch(8), columns=("mp4", "cls"))

    @pipeline_def(batch_size=8, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        mp4, cls = fn.external_source(source, num_outputs=2, cycle="raise", no_copy=True)
        return fn.decoders.video(mp4, sequence_length=3, start_frame=2), cls

    pipeline = graph()
    found = []
    for _ in range(3):
        clips, labels = pipeline.run()
        found += [int(np.asarray(labels.at(row))) for row in range(8)]
        assert [numbers_of(np.asarray(clips.at(row))) for row in range(8)] == [[2, 3, 4]] * 8
    assert sorted(found) == [*range(NUM_SAMPLES)]


def test_frames_are_normalised_on_a_gpu_only() -> None:
    with pytest.raises(PipelineError, match="on the host are uint8"):
        open_engine(replace(AS_STORED, dtype="float16"), "cpu")

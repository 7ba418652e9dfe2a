"""The engines of a GPU over fakes: who decodes what, and that all end in one column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import nvimgcodec as fake
from fakes.pictures import damaged_pictures, encoded, picture, samples_of, sound_pictures

import iopipe
from iopipe.errors import DataError, PipelineError
from iopipe.kernels.image_twin import transform_images_twin
from iopipe.loaders.decode import make_decoder, open_engine
from iopipe.loaders.decode.device_engine import DeviceEngine
from iopipe.loaders.decode.hybrid import Hybrid
from iopipe.loaders.decode.nvimgcodec import NvImageCodec
from iopipe.loaders.decode.on_device import DeviceRows, target_of
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.device_columns import DeviceColumns
from iopipe.protocols import Source
from iopipe.stages import DeliveryOptions, ImageOptions

HOST = torch.device("cpu")
OPTIONS = ImageOptions(size=(48, 64), crop="random", flip=True, engine="nvimgcodec")
DECODERS = {"nvimgcodec": NvImageCodec, "hybrid": Hybrid}


@pytest.fixture(autouse=True)
def _twin_for_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel needs a GPU; its twin, rounded, stands in for it."""

    def transformed(images: Any, parameters: Any, options: Any) -> torch.Tensor:
        exact = transform_images_twin(images, parameters, options)
        values = (exact * 255).round() if options.dtype == torch.uint8 else exact
        return values.to(options.dtype).contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr("iopipe.kernels.image.transform_images", transformed)


def _engine(name: str, **options: Any) -> DeviceEngine:
    chosen = replace(OPTIONS, engine=name, **options)
    return DeviceEngine(chosen, DECODERS[name](HOST, num_threads=4), HOST, num_threads=4)


def _rows(engine: Any, contents: list[bytes], **options: Any) -> np.ndarray[Any, Any]:
    column = engine(samples_of(contents, **options)).columns["jpg"]
    assert isinstance(column, DeviceRows) and column.tensor.is_contiguous()
    return column.tensor.numpy()


def _by_cpu(contents: list[bytes], **options: Any) -> np.ndarray[Any, Any]:
    cpu = replace(OPTIONS, engine="cpu")
    return make_decoder(cpu)(samples_of(contents, **options)).columns["jpg"]


@pytest.mark.parametrize("name", DECODERS)
def test_every_kind_of_image_comes_out_as_by_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = fake.install(monkeypatch)
    contents = list(sound_pictures().values())
    engine = _engine(name)
    for _ in range(3):
        difference = np.abs(_rows(engine, contents).astype(int) - _by_cpu(contents))
        assert difference.max() <= 1
    engine.close()
    assert engine.cause == "gpu_decode"
    assert all(sum(decoder.decoded) for decoder in decoders.made)
    assert all(decoder.options == ":fancy_upsampling=1" for decoder in decoders.made)
    notes = "\n".join(engine.notes())
    assert "GIF is none of its formats" in notes and "WEBP is none of its formats" in notes
    assert "JPEG in CMYK or YCCK is none" in notes
    assert "TIFF" not in notes and "JPEG2000" not in notes


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda image: None, "nvImageCodec could not decode it"),
        (lambda image: image[1:], "nvImageCodec made an image of another shape of it"),
    ],
)
def test_what_the_library_gets_wrong_the_cpu_does(
    name: str, spoil: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch, lambda image: spoil(image) if len(image) % 2 else image)
    contents = [encoded(picture(90 + number, 120, number)) for number in range(9)]
    engine = _engine(name)
    assert np.abs(_rows(engine, contents).astype(int) - _by_cpu(contents)).max() <= 1
    engine.close()
    assert any(reason in note for note in engine.notes())


@pytest.mark.parametrize("name", DECODERS)
def test_a_library_that_decodes_nothing_is_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch, lambda image: None)
    contents = [encoded(picture(40 + number, 50, number)) for number in range(20)]
    engine = _engine(name)
    _rows(engine, contents)
    with pytest.raises(PipelineError, match=r"decodes no image here .*use engine='cpu'"):
        for _ in range(5):
            engine(samples_of(contents))
    engine.close()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("damage", sorted(damaged_pictures()))
def test_damage_is_named_and_the_engine_goes_on(
    name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch)
    good = encoded(picture(90, 120))
    engine = _engine(name)
    for row in (0, 2, 4):
        contents = [good] * 5
        contents[row] = damaged_pictures()[damage]
        with pytest.raises(DataError, match="field 'jpg'") as caught:
            engine(samples_of(contents))
        assert caught.value.row == row
    assert _rows(engine, [good] * 5).shape == (5, 48, 64, 3)
    engine.close()


def test_hybrid_gives_each_lane_its_share_and_progressive_images_to_the_cuda_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoders = fake.install(monkeypatch)
    contents = [encoded(picture(90, 120, n), progressive=n % 4 == 0) for n in range(40)]
    engine = _engine("hybrid")
    assert np.abs(_rows(engine, contents).astype(int) - _by_cpu(contents)).max() <= 1
    engine.close()
    of_engine, of_cuda = decoders.made
    assert of_engine.kinds == {fake.BackendKind.HW_GPU_ONLY}
    assert fake.BackendKind.HW_GPU_ONLY not in of_cuda.kinds
    assert 22 <= sum(of_engine.decoded) <= 30  # 65 % at the start
    assert len(of_cuda.decoded) == 2  # its share, and what the engine could not do
    shares, passed_on = engine.notes()
    assert "of the bytes" in shares and "to the CUDA decoder" in passed_on


def test_what_a_sample_becomes_does_not_depend_on_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.install(monkeypatch)
    contents = [encoded(picture(90 + 3 * number, 120, number)) for number in range(20)]
    engine = _engine("hybrid")
    whole = _rows(engine, contents, first=100)
    parts = [_rows(engine, contents[at : at + 5], first=100 + at) for at in range(0, 20, 5)]
    engine.close()
    assert np.abs(whole.astype(int) - np.concatenate(parts)).max() <= 1


def test_pixels_are_normalised_where_the_options_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch)
    contents = [encoded(picture(90 + number, 120, number)) for number in range(4)]
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    engine = _engine("hybrid", dtype="float32", mean=mean, std=std)
    found = _rows(engine, contents)
    engine.close()
    expected = (_by_cpu(contents) / 255 - np.array(mean)) / np.array(std)
    assert found.dtype == np.float32 and np.abs(found - expected).max() <= 1.1 / 255 / min(std)
    with pytest.raises(PipelineError, match="std is"):
        target_of(replace(OPTIONS, dtype="float32", std=(1, 1, 0)))
    with pytest.raises(PipelineError, match="engine 'cpu' makes uint8"):
        make_decoder(replace(OPTIONS, engine="cpu", dtype="float16"))
    with pytest.raises(PipelineError, match="on the host are uint8"):
        open_engine(replace(OPTIONS, engine="dali", mean=mean), "cpu")


class _Toolkit:
    """The real one, but that the device is this host."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.opened: list[DeviceEngine] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def engine(self, options: ImageOptions, device: str) -> DeviceEngine:
        assert device == "cuda:0"
        self.opened.append(_engine(options.engine, size=options.size, crop=options.crop))
        return self.opened[-1]

    def delivery(self, options: DeliveryOptions, source: Source) -> DeviceColumns:
        return DeviceColumns(SlotDelivery(None))


def _dataset(folder: Path, bad: int | None = None) -> Path:
    with iopipe.DatasetWriter(folder, max_samples=16) as writer:
        for number in range(40):
            content = encoded(picture(70 + number, 90, number))
            content = content[:700] if number == bad else content
            writer.write({"__key__": f"{number:02d}", "jpg": content, "cls": number})
    return folder


def _on_device(pipeline: iopipe.Pipeline) -> iopipe.Pipeline:
    return replace(pipeline, toolkit=_Toolkit(pipeline.toolkit))


@pytest.mark.parametrize("name", DECODERS)
def test_a_run_puts_device_columns_beside_the_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch)
    reading = iopipe.read(_dataset(tmp_path)).shuffle(seed=2)
    options = {"size": (48, 64), "crop": "random", "flip": True}
    by_cpu = reading.decode(**options).batch(16)
    pipeline = (
        _on_device(reading)
        .decode(**options, engine=name)
        .batch(16)
        .map(lambda columns: {**columns, "double": 2 * columns["cls"]})
        .to("cuda:0")
    )
    assert f"decode by {name}" in pipeline.describe() and "chunks of 16" in pipeline.describe()
    with by_cpu.run(num_epochs=2) as expected, pipeline.run(num_epochs=2) as found:
        for one, other in zip(expected, found, strict=True):
            assert one["__key__"] == other["__key__"]
            assert torch.equal(2 * one["cls"], other["double"])
            assert (one["jpg"].int() - other["jpg"].int()).abs().max() <= 1
        report = found.report()
    stage = next(stage for stage in report.stages if stage.name == f"decode by {name}")
    assert stage.cause == "gpu_decode" and stage.num_items == 6
    if name == "hybrid":
        assert any("of the bytes" in note for note in report.notes)
        assert report.notes[0] in str(report)


def test_a_damaged_sample_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch)
    reading = iopipe.read(_dataset(tmp_path, bad=21), on_error="skip")
    decoded = _on_device(reading).decode(size=(48, 64), engine="hybrid")
    pipeline = decoded.batch(16).to("cuda:0")
    with pipeline.run() as run:
        keys = [key for batch in run for key in batch["__key__"]]
        (example,) = run.report().errors.examples
    assert keys == [f"{number:02d}" for number in range(40) if number != 21]
    assert "key '21'" in example and "offset" in example


def test_what_cannot_be_is_said_before_anything_is_read(tmp_path: Path) -> None:
    reading = iopipe.read(_dataset(tmp_path))
    with pytest.raises(PipelineError, match="needs a size"):
        reading.decode(engine="hybrid")
    with pytest.raises(PipelineError, match="full resolution"):
        reading.decode(size=32, fidelity="scaled", engine="dali")
    with pytest.raises(PipelineError, match="use 'cpu', 'dali'"):
        reading.decode(size=32, engine="gpu")  # type: ignore[arg-type]
    decoded = reading.decode(size=32, engine="nvimgcodec")
    with pytest.raises(PipelineError, match="leave workers out"):
        decoded.batch(8).workers(2).to("cuda").run()
    with pytest.raises(PipelineError, match="map before decode"):
        decoded.map(lambda row: row).batch(8).to("cuda").run()
    with (
        pytest.raises(PipelineError, match=r"decodes on a GPU: call batch\(n\).to\('cuda'\)"),
        decoded.batch(8).run() as run,
    ):
        next(run)
    with pytest.raises(PipelineError, match="decodes on a GPU"):
        open_engine(OPTIONS, "cpu")

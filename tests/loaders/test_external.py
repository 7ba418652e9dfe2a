"""A user's DALI pipeline, fed by ours; and what it is fed, without DALI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pictures import encoded, picture

import iopipe
from iopipe.errors import PipelineError

NUM_SAMPLES = 30


def _contents() -> list[bytes]:
    return [encoded(picture(50 + number, 70, number)) for number in range(NUM_SAMPLES)]


def _dataset(folder: Path) -> iopipe.Pipeline:
    with iopipe.DatasetWriter(folder, max_samples=12) as writer:
        for number, content in enumerate(_contents()):
            sample = {
                "__key__": f"{number:02d}",
                "jpg": content,
                "cls": number,
                "txt": f"n{number}",
            }
            writer.write(sample)
    return iopipe.read(folder)


def test_batches_are_the_bytes_in_the_order_of_each_epoch(tmp_path: Path) -> None:
    pipeline = _dataset(tmp_path).shuffle(seed=5).batch(8)
    source = iopipe.external_source(pipeline, columns=("jpg", "cls", "txt"), epoch=1)
    contents = _contents()
    for epoch in (1, 2):
        with pipeline.run(epoch=epoch) as run:
            expected = [int(key) for batch in run for key in batch["__key__"]]
        batches = list(source)
        assert [len(labels) for _, labels, _ in batches] == [8, 8, 8, 6]
        assert [int(label) for _, labels, _ in batches for label in labels] == expected
        images = [image for found, _, _ in batches for image in found]
        assert [image.tobytes() for image in images] == [contents[label] for label in expected]
        texts = [text.tobytes() for _, _, found in batches for text in found]
        assert texts == [b"n%d" % label for label in expected]


def test_images_are_views_of_what_was_read(tmp_path: Path) -> None:
    source = iopipe.external_source(_dataset(tmp_path).batch(6), columns=("jpg",))
    for (images,) in source:
        assert all(image.dtype == np.uint8 and image.base is not None for image in images)
        first, last = (image.__array_interface__["data"][0] for image in (images[0], images[-1]))
        # Side by side in one buffer, as the tar archive has them: none was copied for itself.
        assert abs(last - first) < 12 * (1 << 16)


def test_what_dali_could_not_take_is_refused(tmp_path: Path) -> None:
    reading = _dataset(tmp_path)
    with pytest.raises(PipelineError, match="call batch"):
        iopipe.external_source(reading, columns=("jpg",))
    with pytest.raises(PipelineError, match="leave decode"):
        iopipe.external_source(reading.decode(size=8).batch(4), columns=("jpg",))
    with pytest.raises(PipelineError, match=r"leave to\(...\) out"):
        iopipe.external_source(reading.batch(4).to("cuda"), columns=("jpg",))
    with pytest.raises(PipelineError, match=r"no columns \['png'\]"):
        iopipe.external_source(reading.batch(4), columns=("png",))


@pytest.mark.dali
@pytest.mark.parametrize("no_copy", [False, True])
def test_a_dali_pipeline_decodes_what_it_is_fed(no_copy: bool, tmp_path: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    reading = _dataset(tmp_path).shuffle(seed=9)
    source = iopipe.external_source(reading.batch(8), columns=("jpg", "cls"))

    @pipeline_def(batch_size=8, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def training() -> Any:
        jpg, cls = fn.external_source(source, num_outputs=2, cycle="raise", no_copy=no_copy)
        return fn.decoders.image(jpg, device="cpu", adjust_orientation=False), cls

    pipeline = training()
    pipeline.build()
    for epoch in range(2):
        with reading.decode().run(epoch=epoch) as run:
            expected = [(row["jpg"], row["cls"]) for row in run]
        found = []
        with pytest.raises(StopIteration):
            while True:
                images, labels = pipeline.run()
                found += [
                    (np.array(images.at(row)), int(labels.at(row))) for row in range(len(images))
                ]
        pipeline.reset()
        assert [label for _, label in found] == [label for _, label in expected]
        for (pixels, _), (others, _) in zip(found, expected, strict=True):
            assert np.array_equal(pixels, others)

"""The whole path on real files: from tar shards to batches, with damage on the way."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import iopipe

NUM_SAMPLES = 50
BAD = (7, 8, 23)


def _jpeg(number: int) -> bytes:
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    raw = io.BytesIO()
    Image.fromarray(coarse).resize((80 + number, 70), Image.Resampling.BICUBIC).save(raw, "JPEG")
    return raw.getvalue()


def _write(folder: Path, *, bad: tuple[int, ...] = ()) -> Path:
    with iopipe.DatasetWriter(folder, max_samples=16) as writer:
        for number in range(NUM_SAMPLES):
            content = _jpeg(number)
            if number in bad:
                content = content[: len(content) // 2]
            writer.write(
                {"__key__": f"{number:03d}", "jpg": content, "cls": number, "txt": "x" * 9}
            )
    return folder


def _pipeline(folder: Path, **options: Any) -> iopipe.Pipeline:
    return (
        iopipe.read(folder, **options)
        .shuffle(seed=4)
        .decode(size=(24, 32), crop="random", flip=True, concurrency=3)
    )


def _by_key(run: iopipe.Run) -> dict[str, np.ndarray[Any, Any]]:
    with run:
        return {sample["__key__"]: sample["jpg"].copy() for sample in run}


def test_undecoded_samples_are_raw_bytes_by_extension(tmp_path: Path) -> None:
    with iopipe.read(_write(tmp_path)).run() as run:
        samples = list(run)
    assert samples[3] == {"__key__": "003", "jpg": _jpeg(3), "cls": b"3", "txt": b"x" * 9}
    assert len(samples) == NUM_SAMPLES


def test_batches_hold_the_pixels_of_the_single_samples(tmp_path: Path) -> None:
    pipeline = _pipeline(_write(tmp_path))
    expected = _by_key(pipeline.run())
    seen = []
    with pipeline.batch(12).run() as run:
        for batch in run:
            assert batch["jpg"].dtype == torch.uint8
            assert batch["cls"].tolist() == [int(key) for key in batch["__key__"]]
            assert batch["txt"] == ["x" * 9] * len(batch["cls"])
            for row, key in enumerate(batch["__key__"]):
                assert np.array_equal(batch["jpg"][row].numpy(), expected[key])
            seen += batch["__key__"]
    assert sorted(seen) == sorted(expected)


def test_damaged_images_leave_all_others_what_they_are(tmp_path: Path) -> None:
    folder = _write(tmp_path, bad=BAD)
    with pytest.raises(iopipe.DataError, match=r"shard-00000\d.tar.*key '0\d\d'"):
        list(_pipeline(folder).batch(12).run())
    pipeline = _pipeline(folder, on_error="skip")
    expected = _by_key(pipeline.run())
    assert len(expected) == NUM_SAMPLES - len(BAD)
    sizes = []
    with pipeline.batch(12).run() as run:
        for batch in run:
            sizes.append(len(batch["__key__"]))
            for row, key in enumerate(batch["__key__"]):
                assert np.array_equal(batch["jpg"][row].numpy(), expected[key])
        errors = run.report().errors
    assert len(sizes) == 5
    assert sum(sizes) == len(expected)
    assert errors.num_skipped == len(BAD)
    assert {f"key '{number:03d}'" in " ".join(errors.examples) for number in BAD} == {True}


def test_arrays_given_to_a_users_function_stay_what_they_were(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    def keep(sample: dict[str, Any]) -> dict[str, Any]:
        kept[sample["__key__"]] = sample["jpg"]
        return sample

    pipeline = _pipeline(_write(tmp_path))
    expected = _by_key(pipeline.run())
    with pipeline.map(keep).batch(4).run() as run:
        for batch in run:
            assert np.array_equal(batch["jpg"][0].numpy(), expected[batch["__key__"][0]])
    assert all(np.array_equal(kept[key], expected[key]) for key in expected)


def test_kept_batches_stay_what_they_were(tmp_path: Path) -> None:
    pipeline = _pipeline(_write(tmp_path))
    expected = _by_key(pipeline.run())
    with pipeline.batch(4).run() as run:
        batches = list(run)
    for batch in batches:
        for row, key in enumerate(batch["__key__"]):
            assert np.array_equal(batch["jpg"][row].numpy(), expected[key])


def test_decoded_pixels_are_not_copied_again(tmp_path: Path) -> None:
    """The decoder's output is where the batch's tensor is."""
    addresses = set()
    pipeline = _pipeline(_write(tmp_path)).batch(10)
    (decode,) = pipeline.stages

    def spying(samples: iopipe.Samples) -> iopipe.Samples:
        result = decode.function(samples)
        addresses.add(result.columns["jpg"].ctypes.data)
        return result

    stage = type(decode)(
        name="decode", function=spying, takes="samples", cause="decode", fills=True
    )
    spied = type(pipeline)(
        source=pipeline.source,
        toolkit=pipeline.toolkit,
        order=pipeline.order,
        stages=(stage,),
        batch_size=10,
    )
    with spied.run() as run:
        assert all(batch["jpg"].data_ptr() in addresses for batch in run)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(iopipe.NotFoundError, match="nothing-here"):
        iopipe.read(tmp_path / "nothing-here.tar")


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        device = "cuda:99"
    with pytest.raises(iopipe.PipelineError, match=device):
        _pipeline(_write(tmp_path)).batch(2).to(device).run()


def test_a_shard_that_shrank_is_an_error_not_a_hang(tmp_path: Path) -> None:
    pipeline = _pipeline(_write(tmp_path)).batch(4)
    shard = tmp_path / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(iopipe.DataError, match=r"shard-000001\.tar.*became shorter"):
        list(pipeline.run())


INTERRUPTED = """
import signal, sys, threading, iopipe
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
pipeline = iopipe.read(sys.argv[1]).decode(size=24).batch(4)
try:
    with pipeline.run(num_epochs=None) as run:
        for number, batch in enumerate(run):
            if number == 3:
                print("running", flush=True)
except KeyboardInterrupt:
    names = [thread.name for thread in threading.enumerate() if "iopipe" in thread.name]
    print("stopped with", names, flush=True)
"""


def test_an_interrupt_stops_a_run_with_all_its_threads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(_write(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "stopped with []\n"
    assert process.returncode == 0

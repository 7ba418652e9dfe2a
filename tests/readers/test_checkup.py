"""`verify` finds every flipped bit and names the sample; `inspect` says what is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from iopipe.cli import main
from iopipe.readers import DatasetWriter, inspect_dataset, open_source, verify_dataset
from iopipe.readers.checksums import SUFFIX
from iopipe.report.datasets import preview

NUM_SAMPLES = 12


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    with DatasetWriter(folder, max_samples=4) as writer:
        for number in range(NUM_SAMPLES):
            writer.write({"__key__": f"k{number}", "bin": bytes([number]) * 700, "cls": number})
    return folder


def _flip(path: Path, offset: int) -> None:
    """Damage that leaves no other trace, as that of a disk does: the time stays."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _places(dataset: Path) -> dict[str, tuple[Path, int]]:
    source = open_source(dataset)
    places = [source.locate(number) for number in range(len(source))]
    return {place.key: (Path(place.shard), place.offset) for place in places}


def test_an_intact_dataset_is_intact(dataset: Path) -> None:
    sizes: list[int] = []
    found = verify_dataset(dataset, on_start=sizes.append, on_shard=sizes.append)
    assert found.is_intact and found.damage == ()
    assert (found.num_shards, found.num_samples) == (3, NUM_SAMPLES)
    assert found.num_bytes == sizes[0] == sum(sizes[1:])
    assert found.num_bytes == sum(path.stat().st_size for path in dataset.glob("*.tar"))


def test_every_damaged_sample_is_named_with_shard_key_and_offset(dataset: Path) -> None:
    places = _places(dataset)
    for key in ("k1", "k2", "k7"):
        shard, offset = places[key]
        _flip(shard, offset + 600)
    found = verify_dataset(dataset)
    named = [(damage.key, damage.shard, damage.offset) for damage in found.damage]
    assert named == [(key, str(places[key][0]), places[key][1]) for key in ("k1", "k2", "k7")]
    assert found.num_samples == NUM_SAMPLES


def test_every_single_bit_of_a_shard_counts(dataset: Path) -> None:
    shard = dataset / "shard-000001.tar"
    content = shard.read_bytes()
    for offset in range(0, len(content), 97):
        _flip(shard, offset)
        found = verify_dataset(dataset)
        assert found.damage and {damage.shard for damage in found.damage} == {str(shard)}
        _flip(shard, offset)
    assert verify_dataset(dataset).is_intact


def test_a_shard_cut_off_names_what_is_missing(dataset: Path) -> None:
    shard, offset = _places(dataset)["k6"]
    shard.write_bytes(shard.read_bytes()[: offset + 10])
    found = verify_dataset(dataset)
    reasons = [str(damage) for damage in found.damage]
    assert any("k6" in reason and "past the end" in reason for reason in reasons)
    assert any("2 of the 4 samples that were written are missing" in reason for reason in reasons)


def test_a_dataset_without_any_checksums_is_not_called_intact(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()
    assert verify_dataset(dataset).is_intact  # the samples' own checksums are left
    for path in dataset.glob(f"*{SUFFIX}"):
        path.unlink()
    found = verify_dataset(dataset)
    assert len(found.damage) == 3 and found.num_samples == 0
    assert "no sidecar of checksums" in str(found.damage[0])


def test_the_command_exits_with_1_and_lists_the_damage(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(dataset)]) == 0
    assert f"intact: {NUM_SAMPLES} samples in 3 shards" in capsys.readouterr().out
    shard, offset = _places(dataset)["k9"]
    _flip(shard, offset)
    assert main(["verify", str(dataset), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["damage"] == [
        {
            "shard": str(shard),
            "key": "k9",
            "offset": offset,
            "reason": "its bytes are not those that were written",
        }
    ]
    assert main(["verify", str(dataset)]) == 1
    assert "key 'k9'" in capsys.readouterr().out


def test_inspection(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect_dataset(dataset, num_samples=2)
    sizes = [path.stat().st_size for path in sorted(dataset.glob("*.tar"))]
    assert (found.format, found.num_samples) == ("webdataset", NUM_SAMPLES)
    assert found.columns == {"bin": "binary", "cls": "binary"}
    assert found.shard_bytes == tuple(sizes)
    assert [sample["cls"] for sample in found.samples] == [b"0", b"1"]
    bins = found.histogram()
    assert sum(count for _, _, count in bins) == 3
    assert bins[0][0] == min(sizes) and bins[-1][1] >= max(sizes)
    assert main(["inspect", str(dataset)]) == 0
    assert "12 samples in 3 shards" in capsys.readouterr().out
    assert main(["inspect", str(dataset), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"][1]["bin"] == "700 bytes: 01 01 01 01 01 01 01 01"
    assert main(["inspect", str(dataset / "none")]) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"plain", "plain"),
        (b"\x1b[2J", "4 bytes: 1b 5b 32 4a"),
        ("\x1b[2J", "\\x1b[2J"),
        ("x" * 99, "x" * 60 + "..."),
        (1.5, "1.5"),
    ],
)
def test_previews_cannot_steer_the_terminal(value: Any, shown: str) -> None:
    assert preview(value) == shown

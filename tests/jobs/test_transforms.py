"""Transforms of jobs against the libraries that they use, called by themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from iopipe.errors import DataError, PipelineError
from iopipe.jobs import ShardOptions, TransformSpec, shard
from iopipe.readers import DatasetWriter, open_source
from iopipe.storage import PosixStore


def _photograph(width: int, height: int, format: str = "JPEG", **options: Any) -> bytes:
    """A smooth picture: what resizing keeps."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([x, y, (x + y) / 2], axis=2)
    raw = io.BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(raw, format, **options)
    return raw.getvalue()


def _made(name: str, sample: dict[str, Any], **options: Any) -> Any:
    (outcome,) = TransformSpec(name=name, options=options).build()([{"__key__": "k", **sample}])
    return outcome


def _size(content: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(content)).size


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (301, 1000)])
def test_the_shorter_side_becomes_what_was_asked_for(width: int, height: int) -> None:
    (sample,) = _made("images", {"jpg": _photograph(width, height), "cls": 3}, resize=100)
    scale = 100 / min(width, height)
    assert _size(sample["jpg"]) == (round(width * scale), round(height * scale))
    assert sample["cls"] == 3 and sample["__key__"] == "k"
    made = np.asarray(Image.open(io.BytesIO(sample["jpg"])), np.float64)
    whole = Image.open(io.BytesIO(_photograph(width, height)))
    expected = np.asarray(whole.resize(_size(sample["jpg"]), Image.Resampling.LANCZOS), np.float64)
    assert np.abs(made - expected).mean() < 2


def test_small_images_stay_as_they_are_and_quality_makes_smaller_ones() -> None:
    content = _photograph(80, 60, quality=95)
    (same,) = _made("images", {"jpg": content}, resize=100)
    assert same["jpg"] is content or same["jpg"] == content
    (smaller,) = _made("images", {"jpg": content}, quality=20)
    assert len(smaller["jpg"]) < len(content) and _size(smaller["jpg"]) == (80, 60)


def test_images_are_turned_upright_and_other_codecs_become_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    (sample,) = _made("images", {"jpg": _photograph(400, 200, exif=exif)}, resize=100)
    assert _size(sample["jpg"]) == (100, 200)
    (sample,) = _made("images", {"png": _photograph(50, 40, "PNG")}, resize=100)
    assert sample.keys() == {"__key__", "jpg"} and sample["jpg"].startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", _photograph(50, 50)[:300], b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"x" * 99],
)
def test_what_is_no_image_is_rejected(content: bytes) -> None:
    assert isinstance(_made("images", {"jpg": content}, resize=10), DataError)


def test_a_bomb_is_rejected_before_it_is_decoded() -> None:
    raw = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(raw, "PNG")
    outcome = _made("images", {"png": raw.getvalue()}, resize=10)
    assert isinstance(outcome, DataError) and len(raw.getvalue()) < 1_000_000


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(special_tokens=["[UNK]", "[END]"], vocab_size=300)
    made.train_from_iterator(["the quick brown fox", "jumps over the lazy dog"] * 9, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_texts_become_token_shards(tokenizer: Path, tmp_path: Path) -> None:
    texts = [f"the dog {number} jumps" for number in range(150)]
    with DatasetWriter(tmp_path / "texts") as writer:
        for number, text in enumerate(texts):
            writer.write({"__key__": f"t{number}", "txt": text})
    options = {"tokenizer": str(tokenizer), "end_of_text": "[END]"}
    spec = TransformSpec(name="tokenise", options=options)
    out = tmp_path / "out"
    shard(
        tmp_path / "texts",
        out,
        ShardOptions(format="tokens", transforms=(spec,), shard_samples=70),
        num_workers=1,
    )
    loaded = Tokenizer.from_file(str(tokenizer))
    end = loaded.token_to_id("[END]")
    expected = [[*loaded.encode(text).ids, end] for text in texts]
    source = open_source(out)
    column = source.samples(range(150), PosixStore()).columns["tokens"]
    assert [np.asarray(tokens).tolist() for tokens in column] == expected
    assert str(source.schema.field("tokens").type) == "list<item: uint16>"


def test_tokenizers_that_are_none_are_named(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    for name, reason in (("none.json", "no tokenizer file"), (str(tmp_path / "x.json"), "is no")):
        with pytest.raises(PipelineError, match=reason):
            TransformSpec(name="tokenise", options={"tokenizer": name}).build()
    options = {"tokenizer": str(tokenizer), "end_of_text": "[NONE]"}
    with pytest.raises(PipelineError, match=r"no token '\[NONE\]'"):
        TransformSpec(name="tokenise", options=options).build()
    outcome = _made("tokenise", {"jpg": b"x"}, tokenizer=str(tokenizer))
    assert isinstance(outcome, DataError)
    outcome = _made("tokenise", {"txt": b"\xff\xfe"}, tokenizer=str(tokenizer))
    assert isinstance(outcome, DataError)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("json", "names no function"),
        ("no_such_module:x", "cannot import"),
        ("json:no_such", "has no 'no_such'"),
        ("json:__doc__", "no function"),
    ],
)
def test_a_function_that_is_none_is_named(function: str, reason: str) -> None:
    with pytest.raises(PipelineError, match=reason):
        TransformSpec(name="map", options={"function": function}).build()
    with pytest.raises(PipelineError, match="no transform 'nothing'"):
        TransformSpec(name="nothing").build()

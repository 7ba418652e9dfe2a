"""Jobs on sources of other formats: keys that are stored, sizes that are shared, every type."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.jobs import ShardOptions, TransformSpec, external, shard
from iopipe.jobs.command import size_in_bytes
from iopipe.jobs.destination import Destination
from iopipe.jobs.selection import split_of
from iopipe.plan import mean_sample_bytes
from iopipe.readers import DatasetWriter, open_source, verify_dataset
from iopipe.storage import PosixStore

Tree = Callable[[Path], dict[str, bytes]]


def _keys(dataset: Path) -> set[str]:
    source = open_source(dataset)
    return set(source.samples(range(len(source)), PosixStore()).keys)


@pytest.mark.parametrize("format", ["parquet", "tfrecord", "arrow", "webdataset"])
def test_splits_follow_the_keys_that_are_stored(texts: Path, tmp_path: Path, format: str) -> None:
    shard(texts, tmp_path / "in", ShardOptions(format=format, shard_samples=9), num_workers=1)
    options = ShardOptions(splits=(("a", 0.5), ("b", 0.5)), shuffle_seed=3)
    shard(tmp_path / "in", tmp_path / "out", options, num_workers=1)
    expected = {key for key in _keys(texts) if split_of(key, (0.5, 0.5)) == 0}
    assert _keys(tmp_path / "out" / "a") == expected
    assert _keys(tmp_path / "out" / "b") == _keys(texts) - expected


@pytest.mark.parametrize("format", ["parquet", "tfrecord"])
def test_what_is_left_of_a_damaged_dataset_is_verified_by_stored_keys(
    texts: Path, tmp_path: Path, format: str
) -> None:
    shard(texts, tmp_path / "in", ShardOptions(format=format, shard_samples=10), num_workers=1)
    path = sorted((tmp_path / "in").glob(f"*.{format}"))[1]
    path.write_bytes(path.read_bytes()[:-9])
    path.with_name(f"{path.name}.iopipe-index").unlink(missing_ok=True)
    source = open_source(tmp_path / "in", verify="sample", on_error="skip")
    assert 30 <= len(source) < 40 and source.faults
    assert set(source.samples(range(len(source)), PosixStore()).keys) <= _keys(texts)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_samples_without_keys_are_verified_in_every_shard(tmp_path: Path, format: str) -> None:
    with DatasetWriter(tmp_path / "d", format=format, max_samples=3) as writer:
        for number in range(7):
            writer.write({"x": number})
    source = open_source(tmp_path / "d", verify="sample")
    assert source.samples([6, 0], PosixStore()).columns["x"].tolist() == [6, 0]  # type: ignore[union-attr]
    assert verify_dataset(tmp_path / "d").is_intact


def test_shards_are_as_large_as_was_asked_for_whatever_samples_share(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = pa.table({"bin": [generator.bytes(1000) for _ in range(4000)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1000)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=1000)
    for name in ("x.parquet", "x.arrow"):
        assert mean_sample_bytes(open_source(tmp_path / name)) == pytest.approx(1000, rel=0.1)
        wanted = ShardOptions(format="arrow", shard_bytes=1_140_000)
        report = shard(tmp_path / name, tmp_path / f"{name}.out", wanted, num_workers=1)
        assert report.num_shards in (
            8,
            9,
        )  # of 2,280 bytes: what a member of a tar takes is counted


def _every_type(path: Path) -> None:
    numbers = range(40)
    images = np.arange(40 * 6, dtype=np.float32).reshape(40, 2, 3)
    table = pa.table(
        {
            "__key__": [f"k{n:02d}" for n in numbers],
            "bin": [bytes([n]) * n for n in numbers],
            "n": pa.array([n / 2 for n in numbers], pa.float32()),
            "flag": [n % 2 == 0 for n in numbers],
            "box": pa.array([[n, n + 1] for n in numbers], pa.list_(pa.int16(), 2)),
            "word": pa.array([f"w{n % 3}" for n in numbers]).dictionary_encode(),
            "nested": [{"a": [n], "b": f"{n}"} for n in numbers],
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(images),
        }
    )
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


CHECK = """
import json
def work(sample):
    kinds = {name: type(value).__name__ for name, value in sample.items()}
    kinds["box"] += str(sample["box"].dtype)
    shown = [sample["n"].item(), sample["image"].sum().item(), str(sample["nested"])]
    return {"txt": json.dumps([kinds["box"], kinds["image"], kinds["n"], kinds["flag"], shown])}
"""


@pytest.mark.parametrize("is_mapped", [False, True], ids=["copied", "mapped"])
def test_either_shuffle_gives_every_type(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch, is_mapped: bool
) -> None:
    monkeypatch.setattr("iopipe.jobs.job._RUN_BYTES", 3000)  # several runs
    (tmp_path / "types_of.py").write_text(CHECK)
    monkeypatch.syspath_prepend(str(tmp_path))
    _every_type(tmp_path / "x.arrow")
    mapped = TransformSpec(name="map", options={"function": "types_of:work"})
    outputs = []
    for method in ("direct", "external"):
        options = ShardOptions(
            format="webdataset" if is_mapped else "arrow",
            shard_samples=9,
            shuffle_seed=5,
            shuffle_method=method,  # type: ignore[arg-type]
            transforms=(mapped,) if is_mapped else (),
        )
        shard(tmp_path / "x.arrow", tmp_path / method, options, num_workers=1)
        outputs.append(tree(tmp_path / method))
    assert outputs[0] == outputs[1] and len(outputs[0]) > 5


def test_what_cannot_be_sorted_through_files_is_named() -> None:
    schema = pa.schema({"__position__": pa.int64(), "x": pa.int32()})
    with pytest.raises(PipelineError, match=r"'x' has values that are no int32 .*'direct'"):
        external._batch([(0, {"x": [1, "a"]})], schema, {})
    assert external._code(pa.field("x", pa.string()), [(0, {"x": {"a": 1}})]) == "json"


def test_a_vocabulary_beyond_16_bits_becomes_tokens_that_megatron_knows(tmp_path: Path) -> None:
    vocabulary = {"[UNK]": 0, "small": 1, "large": 70_000}  # with a gap, as added tokens make
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    with DatasetWriter(tmp_path / "texts") as writer:
        writer.write({"__key__": "a", "txt": "small large small"})
    spec = TransformSpec(name="tokenise", options={"tokenizer": str(tmp_path / "tokenizer.json")})
    options = ShardOptions(format="tokens", transforms=(spec,))
    assert shard(tmp_path / "texts", tmp_path / "out", options, num_workers=1).num_samples == 1
    source = open_source(tmp_path / "out")
    (tokens,) = source.samples([0], PosixStore()).columns["tokens"]
    assert np.asarray(tokens).tolist() == [1, 70_000, 1]
    assert str(source.schema.field("tokens").type) == "list<item: int32>"


# ---- destinations --------------------------------------------------------------------


def test_a_url_gets_nothing_that_a_killed_worker_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that died in the second chunk of its shard."""
    with DatasetWriter(tmp_path / "many") as writer:
        for number in range(100):
            writer.write({"__key__": f"t{number:03d}", "txt": "x"})
    code = (
        "import os, signal\n"
        "def work(sample):\n"
        "    if sample['__key__'] == 't090':\n"
        "        try:\n"
        f"            os.close(os.open({str(tmp_path / 'once')!r}, os.O_CREAT | os.O_EXCL))\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        except FileExistsError:\n"
        "            pass\n"
        "    return sample\n"
    )
    (tmp_path / "dying.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    mapped = TransformSpec(name="map", options={"function": "dying:work"})
    options = ShardOptions(transforms=(mapped,), shard_samples=100)
    shard(tmp_path / "many", f"local://{tmp_path}/out", options, num_workers=1)
    assert (tmp_path / "once").exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in names if name.endswith(".tmp")] and "shard-000000.tar" in names


def test_a_file_url_is_one_folder_for_reading_and_writing(texts: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/a%20b"
    shard(texts, url, num_workers=1)
    assert (tmp_path / "a b" / "manifest.json").exists() and len(open_source(f"{url}/*.tar")) == 40


def test_a_url_with_somebody_elses_files_is_refused(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "shard-000000.tar").write_bytes(b"precious")
    with pytest.raises(PipelineError, match="is not empty"):
        shard(texts, f"local://{tmp_path}/theirs", num_workers=1)
    assert (tmp_path / "theirs" / "shard-000000.tar").read_bytes() == b"precious"
    for _ in range(2):  # a new place, and going on there
        shard(texts, f"local://{tmp_path}/ours", num_workers=1)


def test_wrong_arguments_leave_no_staging_folder(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "staging"))
    (tmp_path / "staging").mkdir()
    with pytest.raises(PipelineError, match="num_workers is 0"):
        shard(texts, f"local://{tmp_path}/out", num_workers=0)
    assert not list((tmp_path / "staging").iterdir())


def test_what_kills_leave_is_swept_and_foreign_files_are_not(tmp_path: Path) -> None:
    work = tmp_path / ".iopipe-job"
    work.mkdir()
    left = [
        "shard-000001.tar.9.tmp",
        "manifest.json.9.tmp",
        ".iopipe-job/run-000-000000.arrow.9.tmp",
    ]
    for name in (*left, "notes.tmp"):
        (tmp_path / name).write_bytes(b"x")
    with Destination(tmp_path).opened():
        pass
    assert [name for name in (*left, "notes.tmp") if (tmp_path / name).exists()] == ["notes.tmp"]


@pytest.mark.parametrize("where", ["run", "hashes", "done.jsonl", "selection", "manifest"])
def test_a_full_disk_has_a_name_wherever_it_strikes(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real_open = open

    def full(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if ("w" in mode or "a" in mode) and os.path.basename(str(path)).startswith(where):
            raise OSError(28, "No space left on device")
        return real_open(path, mode, *rest, **named)

    monkeypatch.setattr("builtins.open", full)
    monkeypatch.setattr("iopipe.jobs.job.LocalEngine", _Here)
    method: Any = "external" if where == "run" else "direct"
    splits = (("a", 0.5), ("b", 0.5)) if where == "selection" else ()
    options = ShardOptions(
        shuffle_seed=1, shuffle_method=method, dedup=where == "hashes", splits=splits
    )
    with pytest.raises(StorageError, match=r"cannot write to .*: no space left"):
        shard(texts, tmp_path / "out", options, num_workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()


class _Here:
    """An engine of this process, in which the disk can be full."""

    def __init__(self, **options: Any) -> None: ...

    def run(self, job: Any, items: Any) -> Iterator[Any]:
        from iopipe.jobs.work import Handler

        handler = Handler(job)
        return (handler(item) for item in items)

    def close(self) -> None: ...


# ---- what users give -----------------------------------------------------------------


def test_a_map_that_gives_no_samples_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wordy.py").write_text("def work(sample):\n    return 'words'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    transform = TransformSpec(name="map", options={"function": "wordy:work"}).build()
    with pytest.raises(PipelineError, match="returned a str"):
        transform([{"__key__": "k"}])
    (outcome,) = TransformSpec(name="images", options={}).build()([{"__key__": "k", "jpg": "text"}])
    assert isinstance(outcome, DataError) and "a str, not bytes" in outcome.reason


@pytest.mark.parametrize("text", ["inf", "nan", "", "1X", "GB"])
def test_what_is_no_size_is_said_so(text: str) -> None:
    with pytest.raises(Exception, match="is no size"):
        size_in_bytes(text)

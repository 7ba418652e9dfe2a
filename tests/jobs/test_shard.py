"""What a sharding job writes: all samples, the same bytes however it is run."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iopipe.cli import main
from iopipe.errors import DataError, ErrorBudgetExceeded, PipelineError, StateError, StorageError
from iopipe.jobs import ShardOptions, TransformSpec, external, plan_shards, shard
from iopipe.jobs.options import ShuffleMethod
from iopipe.jobs.plan import Output, Plan
from iopipe.jobs.selection import split_of
from iopipe.order import permute
from iopipe.readers import open_source, verify_dataset
from iopipe.storage import PosixStore

Tree = Callable[[Path], dict[str, bytes]]


def _contents(dataset: Path) -> dict[str, bytes]:
    """Field jpg or txt of every sample, by key, read by tarfile alone."""
    found: dict[str, bytes] = {}
    for path in sorted(dataset.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, field = member.name.rpartition(".")
                if field in ("jpg", "txt"):
                    file = archive.extractfile(member)
                    assert file is not None and key not in found
                    found[key] = file.read()
    return found


def _keys(dataset: Path) -> list[str]:
    source = open_source(dataset)
    return [source.locate(number).key for number in range(len(source))]


def test_loose_files_become_shards(files: Path, tmp_path: Path) -> None:
    report = shard(files, tmp_path / "out", ShardOptions(shard_samples=7), num_workers=2)
    assert (report.num_shards, report.num_samples, report.num_rejected) == (9, 60, 0)
    expected = {
        f"{path.parent.name}/{path.stem}": path.read_bytes() for path in files.rglob("*.jpg")
    }
    assert _contents(tmp_path / "out") == expected
    assert _keys(tmp_path / "out") == sorted(expected)
    assert verify_dataset(tmp_path / "out").is_intact
    labels = open_source(tmp_path / "out").samples(range(60), PosixStore()).columns["cls"]
    assert [int(bytes(label)) for label in labels] == [n // 20 for n in range(60)]


def test_the_same_bytes_for_any_number_of_workers_and_either_shuffle(
    files: Path, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iopipe.jobs.job._RUN_BYTES", 20_000)  # several runs
    methods: list[tuple[int, ShuffleMethod]] = [(1, "direct"), (3, "direct"), (2, "external")]
    outputs = []
    for number, (num_workers, method) in enumerate(methods):
        options = ShardOptions(shard_samples=11, shuffle_seed=4, shuffle_method=method)
        shard(files, tmp_path / str(number), options, num_workers=num_workers)
        outputs.append(tree(tmp_path / str(number)))
    same = TransformSpec(name="map", options={"function": "copy:copy"})  # needs worker processes
    mapped = ShardOptions(shard_samples=11, shuffle_seed=4, transforms=(same,))
    shard(files, tmp_path / "mapped", mapped, num_workers=2)
    outputs.append(tree(tmp_path / "mapped"))
    assert all(output == outputs[0] for output in outputs)
    keys = _keys(tmp_path / "0")
    in_order = sorted(keys)
    assert keys == [in_order[i] for i in permute(np.arange(60), 60, (4, 0))]
    assert not list((tmp_path / "2" / ".iopipe-job").glob("run-*"))


def test_a_small_copy_is_made_by_this_process_and_a_large_one_by_workers(
    files: Path, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]  # type: ignore[no-any-return]

    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", counted)
    shard(files, tmp_path / "small", ShardOptions(shard_samples=7), num_workers=2)
    assert not started
    monkeypatch.setattr("iopipe.jobs.job._BRIEF_SAMPLES", 100)  # 60 samples, for 2 workers each
    shard(files, tmp_path / "large", ShardOptions(shard_samples=7), num_workers=2)
    assert len(started) == 2
    assert tree(tmp_path / "large") == tree(tmp_path / "small")


def test_a_job_leaves_no_descriptor_and_no_thread(texts: Path, tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        shard(texts, tmp_path / "out", ShardOptions(shard_samples=7), num_workers=2)
        with pytest.raises(StateError) as caught:
            shard(texts, tmp_path / "out", ShardOptions(shard_samples=8), num_workers=2)
        plan_shards(texts)
        assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
        assert caught.value.__traceback__ is not None  # which keeps what its frames hold
    finally:
        gc.enable()


def test_a_run_that_a_worker_does_not_see_is_an_error(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iopipe.jobs.job._RUN_BYTES", 200)
    num_runs = external.num_runs
    monkeypatch.setattr(external, "num_runs", lambda output, size: num_runs(output, size) - 1)
    options = ShardOptions(shuffle_seed=2, shuffle_method="external", shard_samples=40)
    with pytest.raises(StorageError, match=r"of 40 samples of shard 0 .*must see this folder"):
        shard(texts, tmp_path / "out", options, num_workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_copies_are_shuffled_differently(texts: Path, tmp_path: Path) -> None:
    options = ShardOptions(shard_samples=15, shuffle_seed=1, copies=2)
    assert shard(texts, tmp_path / "out", options, num_workers=1).num_samples == 80
    first, second = (_keys(tmp_path / "out" / f"copy-00{n}") for n in range(2))
    assert sorted(first) == sorted(second) == sorted(_keys(texts))
    assert first != second


def test_splits_follow_the_keys(texts: Path, tmp_path: Path) -> None:
    splits = (("train", 0.8), ("val", 0.2))
    shard(texts, tmp_path / "out", ShardOptions(splits=splits), num_workers=1)
    train, val = (_keys(tmp_path / "out" / name) for name in ("train", "val"))
    assert sorted(train + val) == _keys(texts)
    assert all(split_of(key, (0.8, 0.2)) == 0 for key in train)
    assert all(split_of(key, (0.8, 0.2)) == 1 for key in val) and val


def test_shares_of_a_split_are_those_asked_for() -> None:
    splits = [split_of(f"key-{number}", (0.98, 0.02)) for number in range(50_000)]
    # 1000 expected in the second; 6 standard deviations of the binomial are 188
    assert abs(sum(splits) - 1000) < 188


def test_of_equal_samples_the_first_stays(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iopipe.jobs.job._RUN_BYTES", 200)
    monkeypatch.setattr("iopipe.jobs.dedup._PART_HASHES", 7)
    options = ShardOptions(dedup=True, shuffle_seed=2)
    shard(texts, tmp_path / "out", options, num_workers=2)
    assert sorted(_keys(tmp_path / "out")) == [f"t{n:03d}" for n in range(30)]


def test_transforms_filter_and_generate(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "user_code.py"
    module.write_text(
        "def work(sample):\n"
        "    number = int(sample['__key__'][1:])\n"
        "    if number % 2:\n"
        "        return None\n"
        "    return ({'txt': f'{number} {part}'} for part in range(2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mapped = TransformSpec(name="map", options={"function": "user_code:work"})
    options = ShardOptions(transforms=(mapped,), shard_samples=9)
    shard(texts, tmp_path / "out", options, num_workers=2)
    assert _contents(tmp_path / "out") == {
        f"t{number:03d}-{part:04d}": f"{number} {part}".encode()
        for number in range(0, 40, 2)
        for part in range(2)
    }


def test_a_finished_job_is_not_done_again_and_another_one_is_refused(
    texts: Path, tmp_path: Path, tree: Tree
) -> None:
    out = tmp_path / "out"
    shard(texts, out, ShardOptions(shard_samples=9, shuffle_seed=1), num_workers=1)
    before = tree(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    again = shard(texts, out, ShardOptions(shard_samples=9, shuffle_seed=1), num_workers=1)
    assert again.num_samples == 40 and tree(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times
    with pytest.raises(StateError, match="shuffle_seed was 1 and is 2 now"):
        shard(texts, out, ShardOptions(shard_samples=9, shuffle_seed=2))
    with pytest.raises(PipelineError, match="not an empty folder"):
        shard(texts, texts)
    with pytest.raises(PipelineError, match="num_workers is 0"):
        shard(texts, tmp_path / "none", num_workers=0)
    with pytest.raises(PipelineError, match="memory of one process"):
        shard(texts, "memory://out")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"format": "folder"}, "can only be read"),
        ({"compression": "zstd"}, "neither compression"),
        ({"transforms": (TransformSpec(name="map", options={"function": "no:such"}),)}, "no"),
        ({"transforms": (TransformSpec(name="images", options={"quality": 0}),)}, "quality is 0"),
    ],
)
def test_what_no_worker_can_do_is_refused_before_anything_is_begun(
    texts: Path, tmp_path: Path, wrong: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PipelineError, match=reason):
        shard(texts, tmp_path / "out", ShardOptions(**wrong), num_workers=1)
    assert not (tmp_path / "out").exists()
    assert shard(texts, tmp_path / "out", ShardOptions(), num_workers=1).num_samples == 40


def test_damaged_samples_are_listed_or_raised(texts: Path, tmp_path: Path) -> None:
    def damaged(sample: str) -> ShardOptions:
        mapped = TransformSpec(name="images", options={"resize": 8})
        return ShardOptions(transforms=(mapped,), on_error=sample)  # type: ignore[arg-type]

    with pytest.raises(DataError, match="no image"):
        shard(texts, tmp_path / "a", damaged("raise"), num_workers=1)
    with pytest.raises(ErrorBudgetExceeded, match="40 samples were rejected, allowed are 3"):
        options = ShardOptions(transforms=damaged("skip").transforms, on_error="skip", max_errors=3)
        shard(texts, tmp_path / "b", options, num_workers=1)
    for _ in range(2):  # no number of starts gets round the budget
        with pytest.raises(ErrorBudgetExceeded):
            shard(texts, tmp_path / "b", options, num_workers=1)
    assert not (tmp_path / "b" / "manifest.json").exists()
    report = shard(texts, tmp_path / "c", damaged("skip"), num_workers=1)
    assert (report.num_samples, report.num_rejected) == (0, 40)
    with pa.memory_map(str(tmp_path / "c" / "rejected.arrow")) as file:
        rejected = pa.ipc.open_file(file).read_all().to_pylist()
    assert [row["key"] for row in rejected] == _keys(texts)
    assert "no image" in rejected[0]["reason"]


def test_what_cannot_be_read_is_listed(texts: Path, tmp_path: Path) -> None:
    path = texts / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[: -4 * 1024])
    Path(f"{path}.iopipe-index").unlink()
    with pytest.raises(DataError, match="shard-000001"):
        shard(texts, tmp_path / "a", ShardOptions(), num_workers=1)
    report = shard(texts, tmp_path / "b", ShardOptions(on_error="skip"), num_workers=1)
    assert report.num_samples < 40 and report.num_rejected >= 1


def test_a_url_gets_what_a_folder_gets(texts: Path, tmp_path: Path, tree: Tree) -> None:
    options = ShardOptions(shard_samples=9, shuffle_seed=1)
    shard(texts, tmp_path / "local", options, num_workers=1)
    shard(texts, f"local://{tmp_path}/remote", options, num_workers=2)
    assert tree(tmp_path / "remote") == tree(tmp_path / "local")
    done = (tmp_path / "remote" / ".iopipe-job" / "done.jsonl").read_text()
    assert len(done.splitlines()) == 5
    again = shard(texts, f"local://{tmp_path}/remote", options, num_workers=1)
    assert again.num_samples == 40


def test_the_plan_is_printed_and_nothing_is_written(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["shard", str(texts), str(tmp_path / "x"), "--shard-samples", "9", "--dry-run"]
    assert main(arguments) == 0
    assert "5 shards of 9 samples" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tasks"][-1] == ["", 4, 36, 40]
    assert not (tmp_path / "x").exists()
    assert plan_shards(texts, ShardOptions(shard_samples=9)).num_tasks == 5


def test_the_command(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["convert", str(texts), str(out), "--format", "tfrecord", "--workers", "1"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 40
    assert open_source(out).columns == ("txt",)
    assert main(["convert", str(texts), str(out), "--format", "none"]) == 1


def test_a_plan_of_any_size_takes_no_memory() -> None:
    output = Output(folder="", num_samples=10**12, split=None, copy=0)
    plan = Plan(outputs=(output,), samples_per_shard=1000, shuffle_seed=3)
    assert plan.num_tasks == 10**9
    task = plan.task(10**9 - 1)
    assert (task.first, task.last) == (10**12 - 1000, 10**12)
    ids = plan.indices(output, task.first, task.last)
    assert len(set(ids.tolist())) == 1000
    back = plan.positions(output, int(ids[5]), int(ids[5]) + 1)
    assert back.tolist() == [10**12 - 995]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shard_samples": 0}, "shard_samples is 0"),
        ({"copies": 2}, "shuffle_seed"),
        ({"splits": (("a", 0.5), ("a", 0.5))}, "different"),
        ({"splits": (("../a", 1.0),)}, "plain folder names"),
        ({"splits": (("a", 0.5),)}, "make 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(PipelineError, match=reason):
        ShardOptions(**options)  # type: ignore[arg-type]

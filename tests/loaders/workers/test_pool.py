"""Pipelines with worker processes: the same batches, written where they belong; clean ends."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import simplejpeg
import torch
from fakes import mapped
from fakes.link import FakeLink
from fakes.processes import alive_since, children
from fakes.source import FakeToolkit, numbers

import iopipe
from iopipe import DataError, Pipeline, PipelineError, WorkerError
from iopipe.edge import Closed
from iopipe.loaders.workers import pool


@pytest.fixture(autouse=True)
def _nobody_is_left_behind() -> Iterator[None]:
    before = children()
    yield
    assert not alive_since(before)
    assert not [link for link in map(_target, Path("/proc/self/fd").iterdir()) if "iopipe" in link]
    assert not [one for one in threading.enumerate() if one.name.startswith("iopipe-")]


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # the one that lists them
        return ""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(3)
    with iopipe.DatasetWriter(folder / "set", max_samples=30) as writer:
        for number in range(70):
            shape = (*generator.integers(40, 90, 2), 3)
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            content = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels))
            writer.write(
                {"__key__": f"{number:03d}", "jpg": content, "cls": number, "txt": f"n{number}"}
            )
    return folder / "set"


def read(images: Path, **options: Any) -> Pipeline:
    return iopipe.read(images, **options).shuffle(5)


def pipelines(images: Path) -> dict[str, Pipeline]:
    decoded = read(images).decode(size=32, crop="random", flip=True)
    return {
        "decoded": decoded.batch(16),
        "raw": read(images).batch(16),
        "whole images": read(images).decode().map(mapped.side).batch(7),
        "mapped": decoded.map(mapped.scaled).batch(16),
        "random": decoded.map(mapped.noisy, random=True).batch(16),
        "filtered": decoded.map(mapped.even_only).batch(16),
        "batch function": decoded.batch(16).map(mapped.doubled),
        "padded": read(images).map(mapped.ragged).batch(8, pad={"rows": -1}),
        "last rank": decoded.split(2, 3, tail="pad").batch(16),
        "short batches": decoded.batch(16, drop_last=True),
    }


def delivered(pipeline: Pipeline, **options: Any) -> list[dict[str, Any]]:
    with pipeline.run(num_epochs=2, **options) as run:
        return [
            {
                name: column.clone() if isinstance(column, torch.Tensor) else column
                for name, column in batch.items()
            }
            for batch in run
        ]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 2
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name in one:
            if isinstance(one[name], torch.Tensor):
                assert one[name].dtype == other[name].dtype
                assert torch.equal(one[name], other[name])
            else:
                assert one[name] == other[name]


@pytest.mark.parametrize(
    "kind",
    [
        *("decoded", "raw", "whole images", "mapped", "random", "filtered", "batch function"),
        *("padded", "last rank", "short batches"),
    ],
)
@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_are_those_of_threads(images: Path, kind: str, num_workers: int) -> None:
    pipeline = pipelines(images)[kind]
    same(delivered(pipeline.workers(num_workers)), delivered(pipeline))


def test_samples_without_batches(images: Path) -> None:
    pipeline = read(images).decode(size=16)
    with pipeline.workers(2).run() as run:
        found = [(row["__key__"], row["jpg"].sum()) for row in run]
    with pipeline.run() as run:
        assert found == [(row["__key__"], row["jpg"].sum()) for row in run]


def test_batches_may_overtake_each_other_and_resume(images: Path) -> None:
    pipeline = read(images).decode(size=16).batch(8).workers(2)
    with pipeline.run(in_order=False) as run:
        keys = [key for _ in range(3) for key in next(run)["__key__"]]
        state = run.state_dict()
    with pipeline.workers(3).run() as run:
        run.load_state_dict(state)
        keys += [key for batch in run for key in batch["__key__"]]
    assert sorted(keys) == [f"{number:03d}" for number in range(70)]


def test_documents_are_packed(tmp_path: Path) -> None:
    tokens = np.arange(1, 901, dtype=np.uint16)
    tokens[20::21] = 0
    tokens.tofile(tmp_path / "tokens.bin")
    source = iopipe.open_source(tmp_path / "tokens.bin", options=iopipe.OpenOptions(eos_token=0))
    pipeline = iopipe.read(source).shuffle(1).pack(64).batch(2)
    same(delivered(pipeline.workers(2)), delivered(pipeline))


# ---- where things are written ------------------------------------------------------------


def test_arrays_are_written_into_the_slot(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those of the first chunks, whose shapes nobody knew."""
    replies = []
    received = pool._received

    def watched(reply: Any, *rest: Any) -> Any:
        replies.append(reply)
        return received(reply, *rest)

    monkeypatch.setattr(pool, "_received", watched)
    pipeline = read(images).decode(size=32).batch(16).workers(1)
    with pipeline.run(num_epochs=3) as run:
        list(run)
    in_slot = [reply.in_slot for reply in replies]
    first = in_slot.index(("jpg", "cls"))
    assert first <= 8 and set(in_slot[first:]) == {("jpg", "cls")}
    assert all(set(reply.columns) == {"txt"} for reply in replies[first:])


def test_slots_are_page_locked_for_a_device_and_let_go() -> None:
    link = FakeLink()
    pipeline = numbers(64, toolkit=FakeToolkit(link)).batch(8).workers(1).to("cuda")
    with pipeline.run() as run:
        found = []
        for batch in run:
            link.finish()
            found += batch["x"].tolist()
            assert link.pinned
        del batch
    assert found == list(range(64))
    del run
    gc.collect()
    assert not link.pinned


def _shared_maps(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    files = {line.split()[5] for line in lines if len(line.split()) > 5}
    return {name for name in files if name.startswith(("/dev/shm", "/memfd"))}


def test_nothing_lies_in_shared_memory(images: Path) -> None:
    before = _shared_maps(os.getpid())  # of other tests
    with read(images).decode(size=32).batch(16).workers(2).run() as run:
        kept = [next(run) for _ in range(3)]
        pids = [os.getpid(), *(one.process.pid for one in run._pass.workers._channels)]
        maps = [_shared_maps(pid) for pid in pids]
    assert len(kept) == 3 and len(maps) == 3
    named = {name for found in maps for name in found if name.startswith("/dev/shm")}
    assert named <= before
    assert all("/memfd:iopipe-slot" in found for found in maps)


# ---- damage and errors -------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_damaged_samples_are_left_out(policy: Any) -> None:
    bad = [3, 17, 18]
    pipeline = numbers(40, bad=bad, on_error=policy).shuffle(2).batch(8)
    with pipeline.workers(2).run(num_epochs=2) as run:
        found = [batch["x"].tolist() for batch in run]
        report = run.report().errors
        state = run.state_dict()
    with pipeline.run(num_epochs=2) as run:
        assert found == [batch["x"].tolist() for batch in run]
        assert report.num_skipped == run.report().errors.num_skipped
    assert state["quarantined"] == (bad if policy == "quarantine" else [])


def test_a_damaged_sample_is_named() -> None:
    with pytest.raises(DataError, match=r"sample 17") as caught:
        delivered(numbers(40, bad=[17]).batch(8).workers(2))
    assert any("in a worker process" in note for note in caught.value.__notes__)


def test_an_error_of_a_function_is_raised_as_it_is(images: Path) -> None:
    pipeline = read(images).map(mapped.broken).batch(4)
    with pytest.raises(ZeroDivisionError) as caught:
        delivered(pipeline.workers(2))
    notes = "\n".join(caught.value.__notes__)
    assert "at sample" in notes and "mapped.py" in notes


def test_an_error_that_cannot_be_sent_is_told_in_words(images: Path) -> None:
    with pytest.raises(RuntimeError, match="Unsendable: no way"):
        delivered(read(images).map(mapped.unsendable).batch(4).workers(1))


@pytest.mark.parametrize(
    ("function", "said"),
    [(mapped.kills_itself, "SIGKILL"), (mapped.exits, "exit code 3")],
)
def test_a_dead_worker_is_an_error(images: Path, function: Any, said: str) -> None:
    with pytest.raises(WorkerError, match="a worker process died") as caught:
        delivered(read(images).map(function).batch(4).workers(2))
    assert said in str(caught.value)


def test_illegal_numbers(images: Path) -> None:
    with pytest.raises(PipelineError, match="0 or more"):
        read(images).workers(-1)
    with pytest.raises(PipelineError, match="leave read_ahead out"):
        read(images).batch(2).workers(1).read_ahead(1000).run()
    described = read(images).decode(size=8).batch(4).workers(3).describe()
    assert "workers: read, decode, chunks of 1 samples (3 processes)" in described


# ---- start and end -----------------------------------------------------------------------


def test_workers_of_a_fork_server(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "start_method", lambda: "forkserver")
    pipeline = read(images).decode(size=16).map(mapped.scaled).batch(16)
    same(delivered(pipeline.workers(2)), delivered(pipeline))


def test_workers_run_where_their_trainer_runs_now(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the fork server was started when the trainer ran elsewhere."""
    monkeypatch.setattr(pool, "start_method", lambda: "forkserver")
    before = os.sched_getaffinity(0)
    pipeline = read(images).map(mapped.where).batch(70).workers(1)
    try:
        for allowed in (before, {max(before)}, before):
            os.sched_setaffinity(0, allowed)
            batch = delivered(pipeline)[0]
            rows = np.stack([np.flatnonzero(row) for row in batch["cpus"]])
            assert rows.tolist() == [sorted(allowed)] * 70
    finally:
        os.sched_setaffinity(0, before)


def test_what_cannot_be_sent_is_forked(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "start_method", lambda: "forkserver")
    caplog.set_level(logging.INFO)
    pipeline = read(images).map(lambda sample: {"n": int(sample["cls"])}).batch(16)
    assert len(delivered(pipeline.workers(1))) == 10
    assert "cannot be sent to them" in caplog.text


def test_a_run_can_be_left_at_any_time(images: Path) -> None:
    pipeline = read(images).decode(size=32).batch(4).workers(2)
    for num_batches in range(4):
        run = pipeline.run()
        for _ in range(num_batches):
            next(run)
        if num_batches % 2:
            run.close()
        del run


def test_a_worker_that_hangs_is_ended(images: Path) -> None:
    run = read(images).map(mapped.hangs).batch(4).workers(1).run()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            next(run)
        except (PipelineError, StopIteration, Closed) as error:
            errors.append(error)

    reader = threading.Thread(target=ask)
    reader.start()
    while run._pass is None:
        time.sleep(0.01)
    run.close()
    reader.join(20)
    assert not reader.is_alive() and len(errors) == 1


def test_workers_draw_differently(images: Path) -> None:
    pipeline = read(images).map(mapped.draws).batch(70).workers(2)
    (batch, _) = delivered(pipeline)
    by_process: dict[int, set[float]] = {}
    for process, number in zip(batch["process"].tolist(), batch["drawn"].tolist(), strict=True):
        by_process.setdefault(process, set()).add(number)
    sets = list(by_process.values())
    assert sum(map(len, sets)) == len(set.union(*sets))


SCRIPT = """
    import sys, time
    sys.path[:0] = {paths!r}
    import iopipe, psutil
    if __name__ == "__main__":
        run = iopipe.read({images!r}).shuffle(1).decode(size=32).batch(4).workers(2).run(
            num_epochs=None)
        next(run)
        print(*[child.pid for child in psutil.Process().children()], flush=True)
        for batch in run:
            time.sleep(0.01)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_program(images: Path, tmp_path: Path, end: int) -> None:
    paths = [os.fspath(Path(iopipe.__file__).parents[1])]
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(paths=paths, images=os.fspath(images)))
    process = subprocess.Popen(
        [sys.executable, os.fspath(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    if end == signal.SIGINT:
        os.killpg(process.pid, end)
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    if end == signal.SIGINT:
        assert "KeyboardInterrupt" in errors and errors.count("Traceback") == 1, errors
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(psutil.pid_exists, pids)):
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


def test_workers_come_and_go_and_leave_nothing(images: Path) -> None:
    with read(images).decode(size=32).batch(16).workers(1).run(num_epochs=3) as run:
        next(run)
        assert run._pass is not None
        workers = run._pass.workers
        assert isinstance(workers, pool.WorkerPool)
        workers.resize(3)
        assert (workers.num_workers, len(workers._channels)) == (3, 3)
        before = workers.cpu_seconds()
        pids = {channel.process.pid for channel in workers._channels}
        workers.resize(1)
        for _ in range(6):
            next(run)
        gone = pids - {workers._channels[0].process.pid}
        assert len(gone) == 2
        assert not any(Path(f"/proc/{pid}").exists() for pid in gone)
        assert workers.cpu_seconds() >= before  # those that are gone count as well
    workers.resize(4)  # a closed pool stays closed
    assert not workers._channels[1:]

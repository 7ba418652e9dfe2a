"""What is our own in workers: memory, death, ends, start, seeds."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from fakes import loaded as data

import iopipe
from iopipe.loaders.workers import death, start
from iopipe.order.ranks import detect_local_ranks

Make = Callable[..., Any]


def test_nothing_is_left_in_shared_memory(ours: Make) -> None:
    before = set(os.listdir("/dev/shm"))
    loader = ours(data.Kinds(40), batch_size=4, num_workers=2)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
        assert set(os.listdir("/dev/shm")) - before == set() or all(
            name.startswith("sem.") for name in set(os.listdir("/dev/shm")) - before
        )
    del iterator


def test_descriptors_do_not_grow_with_batches(ours: Make) -> None:
    loader = ours(data.Kinds(400), batch_size=4, num_workers=1, persistent_workers=True)
    list(loader)
    before = len(os.listdir("/proc/self/fd"))
    kept = list(loader)
    assert len(kept) == 100
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    loader.close()


def test_kept_batches_hold_no_descriptors() -> None:
    loader = iopipe.DataLoader(data.Numbers(40), num_workers=1)
    process = psutil.Process()
    iterator = iter(loader)
    kept = [next(iterator)]
    before = process.num_fds()
    (worker,) = iterator._workers
    worker_before = psutil.Process(worker.pid).num_fds()
    kept += [next(iterator) for _ in range(30)]
    assert process.num_fds() <= before
    assert psutil.Process(worker.pid).num_fds() <= worker_before + 1  # one may be under way
    assert [int(batch[0]) for batch in kept] == list(range(31))
    del iterator


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_old_nested_tensors_are_refused_as_torch_does(make: Make) -> None:
    samples = [torch.nested.nested_tensor([torch.ones(2)]) for _ in range(4)]
    loader = make(samples, batch_size=2, num_workers=1)
    with pytest.raises(RuntimeError, match="not currently supported by the default collate_fn"):
        next(iter(loader))


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_old_nested_tensors_pass_a_collate_function(make: Make, num_workers: int) -> None:
    samples = [torch.nested.nested_tensor([torch.full((2,), float(i))]) for i in range(4)]
    loader = make(samples, batch_size=2, num_workers=num_workers, collate_fn=data.first_clone)
    assert [float(batch.unbind()[0][0]) for batch in loader] == [0.0, 2.0]


# ---- the end of workers ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "exit code 3"),
        (str(int(signal.SIGKILL)), r"signal.*SIGKILL|killed by signal: Killed"),
        (str(int(signal.SIGSEGV)), r"SIGSEGV|Segmentation fault"),
    ],
)
def test_a_dead_worker_is_an_error_that_says_how_it_died(method: str, how: str, said: str) -> None:
    loader = iopipe.DataLoader(data.Dying(12, how), num_workers=2, multiprocessing_context=method)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid") as caught:
        list(loader)
    assert re.search(said, str(caught.value)), str(caught.value)
    del caught


def test_likely_reasons(tmp_path: Path) -> None:
    class Dead:
        pid = 7

        def __init__(self, exitcode: int) -> None:
            self.exitcode = exitcode

    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert death.oom_kills(tmp_path) == 2
    assert death.oom_kills(tmp_path / "none") is None
    said = death.causes_of_death([Dead(-9)], None)
    assert "pid 7 was ended by signal 9 (SIGKILL); somebody sent SIGKILL" in said
    assert "/dev/shm has" in death.causes_of_death([Dead(-7)], None)
    before = death.oom_kills()
    if before is not None:
        said = death.causes_of_death([Dead(-9)], before - 1)
        assert "killed for memory 1 times" in said


SCRIPT = """
    import os, sys, time
    import torch
    sys.path[:0] = {paths!r}
    from fakes import loaded as data
    import iopipe
    def main():
        loader = iopipe.DataLoader(
            data.Kinds(10_000), batch_size=4, num_workers=2, worker_mode={mode!r},
            multiprocessing_context={method!r},
        )
        iterator = iter(loader)
        next(iterator)
        print(*[worker.pid for worker in iterator._workers], flush=True)
        {then}
    if __name__ == "__main__":
        main()
"""


def started(tmp_path: Path, *, mode: str, method: str | None, then: str) -> subprocess.Popen[str]:
    tests = Path(__file__).parents[2]
    package = Path(iopipe.__file__).parents[1]
    paths = [os.fspath(tests), os.fspath(package)]
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT).format(paths=paths, mode=mode, method=method, then=then)
    )
    return subprocess.Popen(
        [sys.executable, os.fspath(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and is_running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path, method: str) -> None:
    process = started(tmp_path, mode="process", method=method, then="time.sleep(60)")
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    process.kill()
    assert ended(pids, 10)
    process.communicate()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_ctrl_c_ends_trainer_and_workers(tmp_path: Path, mode: str) -> None:
    process = started(tmp_path, mode=mode, method=None, then="[time.sleep(0.01) for _ in iterator]")
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert ended(pids, 10)


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_script_that_ends_early_ends(tmp_path: Path, mode: str) -> None:
    process = started(tmp_path, mode=mode, method=None, then="")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and not errors.strip(), errors


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_script_that_ends_with_its_iterator_alive_ends(tmp_path: Path, mode: str) -> None:
    process = started(tmp_path, mode=mode, method=None, then="data.kept = iterator")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and not errors.strip(), errors


def test_the_end_of_a_program_waits_for_its_threads() -> None:
    """As `weakref.finalize` calls it then; a thread that is cut off inside torch aborts."""
    iterator = iter(iopipe.DataLoader(data.Numbers(1000), num_workers=2, worker_mode="thread"))
    next(iterator)
    workers = iterator._workers
    assert [worker.exitcode for worker in workers] == [None, None]
    for worker in workers:
        worker.end_with_program()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_dropped_iterators_end_their_workers(ours: Make) -> None:
    iterator = iter(ours(data.Numbers(1000), num_workers=2))
    next(iterator)
    workers = iterator._workers
    del iterator
    gc.collect()
    end = time.monotonic() + 10
    while any(worker.is_alive() for worker in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(worker.is_alive() for worker in workers)


# ---- starting ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_every_start_method(method: str) -> None:
    loader = iopipe.DataLoader(
        data.Kinds(8), batch_size=2, num_workers=1, multiprocessing_context=method
    )
    assert [batch["number"].tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("own", [(0, 1), (1, 2)])
def test_workers_are_bound_to_their_part_of_the_machine(
    ours: Make, own: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plan for this machine, or for one rank of it, says; the trainer is left alone."""
    monkeypatch.setenv("LOCAL_RANK", str(own[0]))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(own[1]))
    before = os.sched_getaffinity(0)
    plan = iopipe.plan_binding(
        iopipe.read_topology(), gpu=None, local_rank=own[0], local_world=own[1], num_workers=2
    )
    masks = [sum(1 << cpu for cpu in cpus) for cpus in plan.worker_cpus]
    loader = ours(data.Places(8), num_workers=2, numa="auto")
    assert [int(batch) for batch in loader] == masks * 4
    assert os.sched_getaffinity(0) == before and loader.numa == "auto"


def test_a_binding_that_is_refused_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    loader = iopipe.DataLoader(data.Numbers(4), num_workers=1, worker_mode="thread", numa="auto")
    assert len(list(loader)) == 4
    assert "worker thread 0 is not bound: Operation not permitted" in caplog.text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, (1, 4)),
        ({"SLURM_LOCALID": "2", "SLURM_NTASKS_PER_NODE": "8"}, (2, 8)),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, (3, 4)),
    ],
)
def test_local_ranks(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert detect_local_ranks() == expected


def test_workers_are_not_forked_beside_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [threading.main_thread(), threading.Thread(name="iopipe-read-0")]
    with monkeypatch.context() as patch:
        patch.setattr(threading, "enumerate", lambda: threads)
        assert start.start_method() == "fork"
        threads.append(threading.Thread(name="progress bar"))
        assert start.start_method() == "forkserver"
        patch.setattr(start, "_is_guarded", lambda: False)
        assert start.start_method() == "fork"


def test_a_fork_server_imports_what_workers_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_danger", lambda: "CUDA is in use")
    server = SimpleNamespace(_preload_modules=["__main__"])
    server.set_forkserver_preload = lambda names: setattr(server, "_preload_modules", names)
    monkeypatch.setattr(start.forkserver, "_forkserver", server)
    assert start.start_method() == "forkserver"
    assert server._preload_modules[0] == "__main__"
    assert all(importlib.util.find_spec(name) for name in server._preload_modules[1:])
    assert "iopipe.loaders.read" in server._preload_modules
    server._preload_modules = ["the_programs_own"]
    start.start_method()
    assert server._preload_modules == ["the_programs_own"]


def test_what_cannot_be_sent_is_forked_all_the_same() -> None:
    """As where a progress bar's thread runs beside a dataset that holds a lambda."""
    dataset = data.Numbers(4)
    dataset.change = lambda index: index  # type: ignore[attr-defined]
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert [int(item) for item in iopipe.DataLoader(dataset, num_workers=1)] == [0, 1, 2, 3]
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("text", "guarded"),
    [("if __name__ == '__main__':\n    pass\n", True), ("print(1)\n", False), ("x = (\n", False)],
)
def test_guarded_scripts(
    text: str, guarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "main.py"
    script.write_text(text)
    main = type(sys)("__main__")
    main.__file__ = os.fspath(script)
    main.__spec__ = None
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert start._is_guarded() == guarded


# ---- seeds -------------------------------------------------------------------------------


def drawn(**options: Any) -> dict[int, float]:
    loader = iopipe.DataLoader(data.Augmented(24), seed=9, batch_size=5, **options)
    return {
        int(index): float(value)
        for batch in loader
        for index, value in zip(batch[0], batch[1], strict=True)
    }


def test_samples_draw_alike_for_any_number_of_workers() -> None:
    expected = drawn()
    assert len(set(expected.values())) == 24
    assert drawn(num_workers=1) == drawn(num_workers=2) == expected
    assert drawn(num_workers=2, shuffle=True) == expected


def test_epochs_draw_differently_and_can_be_gone_back_to() -> None:
    loader = iopipe.DataLoader(data.Augmented(6), seed=9, num_workers=1, persistent_workers=True)
    epochs = [[float(batch[1]) for batch in loader] for _ in range(2)]
    loader.set_epoch(0)
    assert [float(batch[1]) for batch in loader] == epochs[0] != epochs[1]
    loader.close()


def test_threads_draw_from_the_generator_of_the_sample() -> None:
    found = {}
    for mode, num_workers in (("thread", 2), ("process", 2), ("process", 0)):
        loader = iopipe.DataLoader(
            data.Augmented(12, keyed=True), seed=3, num_workers=num_workers, worker_mode=mode
        )  # type: ignore[arg-type]
        found[mode, num_workers] = [(int(index), float(value)) for index, value in loader]
    first = next(iter(found.values()))
    assert all(values == first for values in found.values())
    with pytest.raises(iopipe.PipelineError, match="no sample is being fetched"):
        iopipe.loaders.workers.seeds._here.__dict__.clear()
        iopipe.sample_generator()


def test_ranks_share_a_seeded_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        loader = iopipe.DataLoader(data.Numbers(20), seed=1, shuffle=True, batch_size=5)
        assert len(loader) == 2
        seen += [int(item) for batch in loader for item in batch]
    assert sorted(seen) == [*range(20)]


# ---- measuring ---------------------------------------------------------------------------


def test_the_loader_says_what_the_loop_waited_for(ours: Make) -> None:
    loader = ours(data.Sleepy(6, slow=3, seconds=0.5), num_workers=1)
    list(loader)
    report = loader.report()
    assert report.num_steps == 5 and report.attributed_stall_seconds > 0.3
    assert set(report.causes) >= {"loader"}
    quiet = ours(data.Numbers(3), meter=False)
    list(quiet)
    with pytest.raises(iopipe.PipelineError, match="nothing was measured"):
        quiet.report()

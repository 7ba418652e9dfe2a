"""How workers are started, and where they are bound to."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import loaded as data

import iopipe
from iopipe.loaders.workers import start
from iopipe.order.ranks import detect_local_ranks

Make = Callable[..., Any]


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


@pytest.mark.parametrize(
    "make_it",
    [
        lambda: lambda index: index,
        lambda: torch.multiprocessing.get_context("fork").Lock(),
        lambda: torch.ones(2, requires_grad=True) * 2,
        lambda: (index for index in range(3)),
    ],
    ids=["function", "lock", "tensor", "generator"],
)
def test_what_cannot_be_sent_is_forked_all_the_same(make_it: Callable[[], Any]) -> None:
    """As where a progress bar's thread runs beside a dataset that holds a lambda."""
    dataset = data.Numbers(4)
    dataset.held = make_it()  # type: ignore[attr-defined]
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
    [
        ("if __name__ == '__main__':\n    pass\n", True),
        ("def main(): pass\nif '__main__' == __name__ and 1:\n    main()\n", True),
        ("print(1)\n", False),
        ("import logging\nlog = logging.getLogger(__name__)\n", False),
        ("x = (\n", False),
    ],
)
@pytest.mark.parametrize("name", [None, "train"])  # python train.py, python -m train
def test_guarded_scripts(
    text: str, guarded: bool, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "main.py"
    script.write_text(text)
    main = type(sys)("__main__")
    main.__file__ = os.fspath(script)
    main.__spec__ = None if name is None else SimpleNamespace(name=name)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert start._is_guarded() == guarded
    main.__spec__ = SimpleNamespace(name="package.__main__")  # type: ignore[assignment]
    assert start._is_guarded()


def test_what_is_typed_in_is_forked() -> None:
    """As in a notebook, where threads run always, and workers could not import a cell."""
    package = Path(iopipe.__file__).parents[1]
    script = f"""if True:
        import sys, threading
        sys.path.insert(0, {os.fspath(package)!r})
        import iopipe
        class Cell:
            def __len__(self): return 3
            def __getitem__(self, index): return index
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        print([int(item) for item in iopipe.DataLoader(Cell(), num_workers=1)])
        done.set()
    """
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert found.stdout.split("\n")[0] == "[0, 1, 2]", found.stderr

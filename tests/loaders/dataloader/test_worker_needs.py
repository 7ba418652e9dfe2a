"""What a worker needs of its trainer: the script, the dataset, what was set on it."""

from __future__ import annotations

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

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("if __name__ == '__main__':\n    pass\n", True),
        ("def main(): pass\nif '__main__' == __name__ and 1:\n    main()\n", True),
        ("print(1)\n", False),
        ("import logging\nlog = logging.getLogger(__name__)\n", False),
    ],
)
@pytest.mark.parametrize("name", [None, "train"])  # python train.py, python -m train
def test_only_a_condition_on_the_name_is_a_guard(
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


@pytest.mark.parametrize(
    "make_it",
    [
        lambda: torch.multiprocessing.get_context("fork").Lock(),
        lambda: torch.ones(2, requires_grad=True) * 2,
        lambda: (index for index in range(3)),
    ],
    ids=["lock", "tensor", "generator"],
)
def test_whatever_pickling_refuses_is_forked(make_it: Callable[[], Any]) -> None:
    """Beside another thread, where workers would come from a fork server."""
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


class OwnState(data.Numbers):
    """Sample i is what the program, or a `worker_init_fn`, has set."""

    mark = -1

    def __getitem__(self, index: int) -> Any:
        return self.mark, self.num


def _mark(worker_id: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    info.dataset.mark = worker_id  # type: ignore[attr-defined]


def test_what_is_set_on_a_seeded_dataset_is_the_datasets(ours: Make) -> None:
    dataset = OwnState(4)
    loader = ours(dataset, seed=1, num_workers=2, worker_init_fn=_mark)
    loader.dataset.num = 6
    assert dataset.num == 6 and len(loader.dataset) == 6
    found = [(int(mark), int(num)) for mark, num in loader]
    assert found == [(0, 6), (1, 6)] * 3
    assert dataset.mark == -1  # each worker has a copy

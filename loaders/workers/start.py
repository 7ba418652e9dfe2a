"""How worker processes are started where the user does not say.

Asked by the iterator.  Invariant: 'fork' only where nothing is known to break in a forked
child, since it is what makes the first batch come soonest.
"""

from __future__ import annotations

import ast
import logging
import pickle
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

CANNOT_BE_SENT = (
    *(TypeError, AttributeError, pickle.PicklingError),
    *(RuntimeError, ValueError, NotImplementedError),  # of torch's tensors, locks, extensions
)
"""What pickling raises for that which only a forked worker can be given."""
_log = logging.getLogger(__name__)
_NEEDED = ["iopipe.loaders.read", "iopipe.loaders.workers.iterator"]
"""What workers begin with; torch is behind it, whose import takes seconds of a core's time."""


def start_method() -> str:
    """'forkserver' where CUDA is in use or other threads run, which a forked child would
    inherit in pieces, and the main script can be imported by the server; else 'fork'."""
    danger = _danger()
    if danger is None:
        return "fork"
    if not _is_guarded():
        _log.info("workers are forked although %s: they could not import the main script", danger)
        return "fork"
    _load_once()
    return "forkserver"


def _load_once() -> None:
    """Let the fork server import what workers need, instead of every worker, unless the program
    has told it what to import.  Of no effect on a server that is there already."""
    server: Any = forkserver._forkserver
    if server._preload_modules == ["__main__"]:
        server.set_forkserver_preload(["__main__", *_NEEDED])


def _danger() -> str | None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "CUDA is in use"
    others = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        # Those of pipelines and of other loaders' queues: no child touches their locks.
        and not thread.name.startswith(("iopipe-", "QueueFeederThread"))
    ]
    return f"thread {others[0]!r} is running" if others else None


def _is_guarded() -> bool:
    """Whether a worker that is not forked can import the main script, and finds there what it
    defines: it has a condition that asks for `__name__`."""
    main = sys.modules.get("__main__")
    if str(getattr(getattr(main, "__spec__", None), "name", "")).endswith(".__main__"):
        return True  # python -m of a package: workers leave it alone
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).exists():
        return False  # typed in, a notebook, or -c: there is nothing to import
    try:
        tree = ast.parse(Path(path).read_bytes())
    except SyntaxError:
        return False
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.If)]
    names = [name for test in tests for name in ast.walk(test) if isinstance(name, ast.Name)]
    return any(name.id == "__name__" for name in names)

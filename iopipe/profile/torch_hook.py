"""torch's DataLoader, watched from outside.

Stands in a profiled process, around torch's own classes.  Invariant: nothing but time is
added: batches, order, random draws and errors are the loader's own.
"""

from __future__ import annotations

import functools
import os
import weakref
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from typing import Any

from iopipe.profile.fetches import TIMED, timed_creator, unwrapped
from iopipe.profile.variables import FOLDER, STEPS

_process: int | None = None
_session: Any = None
_iterations: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def install(module: ModuleType) -> None:
    """Hook the classes of `torch.utils.data.dataloader`, which has just been imported."""
    kind = module._DatasetKind
    kind.create_fetcher = staticmethod(timed_creator(kind.create_fetcher))
    for name in ("_SingleProcessDataLoaderIter", "_MultiProcessingDataLoaderIter"):
        _time_workers_of(getattr(module, name))
    base = module._BaseDataLoaderIter
    base.__next__ = _measured_next(base.__next__)
    module.DataLoader.__iter__ = _measured_iter(module.DataLoader.__iter__)


def _time_workers_of(kind: Any) -> None:
    original = kind.__init__

    @functools.wraps(original)
    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        if type(self) is not kind:  # somebody's own, with workers of its own
            original(self, *arguments, **options)
            return
        os.environ[TIMED] = "1"
        try:
            original(self, *arguments, **options)
        finally:
            os.environ.pop(TIMED, None)

    kind.__init__ = __init__


def _measured_iter(original: Any) -> Any:
    @functools.wraps(original)
    def __iter__(self: Any) -> Any:
        session = _current_session()
        iterator = original(self)
        if session is not None:
            watched = session.begins(self)
            # A framework's subclass may return an iterator that is none of torch's.
            if hasattr(iterator, "_next_data") and iterator not in _iterations:
                _iterations[iterator] = watched
                session.ends_with(iterator, watched)
        return iterator

    return __iter__


def _measured_next(original: Any) -> Any:
    @functools.wraps(original)
    def __next__(self: Any) -> Any:
        watched = _iterations.get(self)
        if watched is None:
            return unwrapped(original(self))
        return _session.next_batch(watched, lambda: original(self))

    return __next__


def _current_session() -> Any:
    """Of this process; a forked one, a loader's worker for instance, measures nothing of its
    own that its parent would not see."""
    global _process, _session
    if _process is None:
        _process, _session = os.getpid(), _new_session()
    return _session if _process == os.getpid() else None


def _new_session() -> Any:
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from iopipe.profile.session import Session, clock_of_training

    steps = os.environ[STEPS]
    session = Session(Path(os.environ[FOLDER]), int(steps) if steps else None, clock_of_training)
    register_optimizer_step_post_hook(_marks_step)
    if torch.cuda.is_available():
        _mark_device_work(torch, session)
    # Runs at the end of forked processes as well, which atexit does not.
    Finalize(None, session.write, exitpriority=0)
    return session


def _marks_step(optimizer: Any, arguments: Any, options: Any) -> None:
    import torch

    if not torch.compiler.is_compiling() and _process == os.getpid():
        _session.mark_step()


def _mark_device_work(torch: Any, session: Any) -> None:
    """The script's copies to the device, and the first module that it calls after them."""
    for name in ("to", "cuda"):
        setattr(torch.Tensor, name, _marking_copies(getattr(torch.Tensor, name), session))

    def begins(module: Any, arguments: Any) -> None:
        if not torch.compiler.is_compiling():
            session.mark_begin()

    torch.nn.modules.module.register_module_forward_pre_hook(begins)


def _marking_copies(original: Any, session: Any) -> Any:
    @functools.wraps(original)
    def moved(self: Any, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        if result is not self and result.is_cuda and not self.is_cuda:
            session.mark_move()
        return result

    return moved

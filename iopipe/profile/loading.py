"""What `iopipe diagnose FILE:NAME` names, found in a Python file of the user's.

Stands between the command line and `diagnose`.  Invariant: the file is run once, as a module that
finds its neighbours as a script does; what it names is checked before the first run.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from iopipe.errors import PipelineError
from iopipe.profile.diagnose import Subject


def subject_from(target: str, *, step: str = "train_step") -> Subject:
    """`target` is 'file.py:name', a pipeline or any iterable of batches; `step` the name of a
    function of one batch in the same file.  `PipelineError` where one of them is not there."""
    pipeline, function = found_in(target, step=step)
    name = target.rpartition(":")[2]
    return Subject(batches=_iterations(pipeline, name), step=function, **_device())


def found_in(target: str, *, step: str) -> tuple[Any, Callable[[Any], None]]:
    """(what 'file.py:name' names, the function of one batch that is named `step` there)."""
    file, _, name = target.rpartition(":")
    if not file or not name:
        raise PipelineError(f"{target!r} names no pipeline: give file.py:name")
    module = _loaded(Path(file))
    pipeline, function = _found(module, name), _found(module, step)
    if not callable(function):
        raise PipelineError(f"{step!r} in {file} is no function of a batch")
    return pipeline, function


def _loaded(file: Path) -> ModuleType:
    if not file.is_file():
        raise PipelineError(f"{str(file)!r} is no file: give file.py:name")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise PipelineError(f"{str(file)!r} is no Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    if (folder := str(file.parent.resolve())) not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[file.stem] = module  # worker processes of a loader look their dataset up here
    spec.loader.exec_module(module)
    return module


def _found(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        raise PipelineError(f"{module.__file__} has no {name!r}")
    return getattr(module, name)


def _iterations(pipeline: Any, name: str) -> Callable[[], Iterator[Any]]:
    if hasattr(pipeline, "run"):
        return lambda: _of_run(pipeline)
    if not hasattr(pipeline, "__iter__"):
        raise PipelineError(f"{name!r} is a {type(pipeline).__name__}: give a pipeline or a loader")
    return lambda: iter(pipeline)


def _of_run(pipeline: Any) -> Iterator[Any]:
    with pipeline.run() as run:
        yield from run


def _device() -> dict[str, Any]:
    """The clock of the step: CUDA's where the user's file has begun to use it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    from iopipe.meter.events import CudaEvents

    return {"synchronize": torch.cuda.synchronize, "events": lambda: CudaEvents("cuda")}

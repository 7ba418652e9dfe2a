"""Runs first in every Python process of a profiled command, before the script.

Stands between the command line and the hooks.  Invariant: imports the standard library and
names alone; a process that never uses torch's DataLoader is left as it was.

The command puts a folder with a `sitecustomize` on PYTHONPATH.  A runner that executes the
script within this process would be simpler, and would not see what is started by others:
torchrun's ranks, accelerate's, spawned loader workers, a shell script that calls python.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from iopipe.profile.variables import FOLDER, STEPS

_HOOKED = "torch.utils.data.dataloader"

SITE = """\
import sys
try:
    from iopipe.profile import startup
except ImportError as error:
    print(f"iopipe profile: nothing is measured here: {error}", file=sys.stderr)
else:
    startup.begin(__file__)
"""
"""The `sitecustomize` that the command writes."""


def environment_for(folder: Path, *, steps: int | None, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the profiled command; writes the `sitecustomize` into `folder`."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    package_root = str(Path(__file__).parents[2])
    inherited = [path for path in base.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [str(site), *inherited]
    if package_root in sys.path and not _is_installed_at(package_root):
        paths.append(package_root)  # a checkout that only the path of this process leads to
    return {
        **base,
        "PYTHONPATH": os.pathsep.join(paths),
        FOLDER: str(folder),
        STEPS: "" if steps is None else str(steps),
    }


def begin(site_file: str) -> None:
    """Wait for torch's DataLoader to be imported; run the `sitecustomize` that ours hides."""
    if FOLDER in os.environ:
        sys.meta_path.insert(0, _Finder())
    _run_hidden_site(os.path.dirname(os.path.abspath(site_file)))


def _run_hidden_site(folder: str) -> None:
    rest = [path for path in sys.path if os.path.abspath(path) != folder]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _is_installed_at(folder: str) -> bool:
    return Path(folder).name in ("site-packages", "dist-packages")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else does, and hooks it once it has run."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != _HOOKED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        from iopipe.profile.torch_hook import install

        self._inner.exec_module(module)
        install(module)

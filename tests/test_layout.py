"""Who may import whom, and that every room ships: the plan of the house as a test."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import iopipe

PACKAGE = Path(iopipe.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())

CONTRACTS = {"errors", "protocols"}
LOW = {"autotune", "draws", "order", "storage", "meter", "topology"}
CORE = (
    CONTRACTS
    | LOW
    | {
        "edge",
        "engine",
        "faults",
        "gate",
        "audit",
        "binding",
        "ceiling",
        "crew",
        "decoding",
        "description",
        "knobs",
        "launch",
        "ledger",
        "packing",
        "parts",
        "mapping",
        "numbering",
        "one_pass",
        "pipeline",
        "plan",
        "progress",
        "run",
        "sizing",
        "stages",
        "tuned",
    }
)

TOP = ("engine", "parts", "knobs", "one_pass", "run", "tuned", "launch", "pipeline", "ceiling")
"""Of the core, from below: each may import what stands before it, and the rest of the core."""

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "protocols": {"errors"},
    "draws": CONTRACTS,
    "order": CONTRACTS,
    "storage": CONTRACTS,
    "meter": CONTRACTS,
    "topology": CONTRACTS,
    "autotune": CONTRACTS | {"meter", "order", "topology"},
    "stages": CONTRACTS | {"packing"},
    "binding": CONTRACTS | {"stages"},
    "description": CONTRACTS | {"packing", "sizing", "stages"},
    "decoding": CONTRACTS | {"stages"},
    "mapping": CONTRACTS | {"draws", "stages"},
    "plan": CONTRACTS | {"order"},
    "packing": CONTRACTS | {"order", "plan"},
    "progress": CONTRACTS | {"order", "plan"},
    "ledger": CONTRACTS,
    "numbering": CONTRACTS | {"ledger", "order", "packing"},
    "audit": CONTRACTS | {"ledger", "numbering", "order", "plan", "progress"},
    "edge": {"meter"},
    "crew": {"edge"},
    "gate": {"edge"},
    "faults": CONTRACTS | {"meter"},
    "sizing": CONTRACTS | {"binding", "order", "packing", "plan", "stages"},
    **{room: CORE - set(TOP[place:]) for place, room in enumerate(TOP)},
    "kernels": {"errors"},
    "readers": CONTRACTS | {"packing", "storage"},
    "loaders": CORE | {"readers", "kernels"},
    "jobs": CORE | {"readers"},
    "doctor": CORE,
    "report": CORE | {"readers"},
    "profile": CONTRACTS | {"autotune", "ceiling", "meter", "report", "storage"},
    "bench": CORE | {"readers", "loaders", "kernels", "jobs", "profile", "report"},
    "cli": CORE | {"readers", "loaders", "kernels", "jobs", "report", "bench", "doctor", "profile"},
}


def _modules() -> Iterator[tuple[str, Path]]:
    """(room, file) of every module of the package; links are followed."""
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        for name in names:
            path = Path(folder, name)
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            if path.suffix == ".py" and parts != ("__init__",) and "peers" not in parts:
                yield parts[0], path


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize(
    ("room", "path"), [pytest.param(*item, id=item[1].name) for item in sorted(_modules())]
)
def test_imports_follow_the_arrows(room: str, path: Path) -> None:
    assert room in MAY_IMPORT, f"{room} has no place in the plan of the house"
    ours = {name.split(".")[1] for name in _imported(path) if name.startswith("iopipe.")}
    allowed = MAY_IMPORT[room] | ({room} if (PACKAGE / room).is_dir() else set())
    assert ours <= allowed, f"{path.name} imports {sorted(ours - allowed)}"


def test_every_package_ships() -> None:
    found = {
        ".".join(("iopipe", *path.parent.relative_to(PACKAGE).parts))
        for _, path in _modules()
        if path.name == "__init__.py"
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == found | {"iopipe"}
    assert all(importlib.util.find_spec(name) for name in listed)


def test_importing_iopipe_imports_no_heavy_package() -> None:
    code = (
        "import sys, threading, iopipe; "
        "print(sorted({'torch', 'pyarrow', 'numpy', 'rich'} & set(sys.modules)), "
        "threading.active_count())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[] 1"


def test_files_stay_short() -> None:
    long = {
        path.name: num_lines
        for _, path in _modules()
        if (num_lines := len(path.read_text().splitlines())) > 400
    }
    assert not long

"""What ships with the kernels: current, readable, and named in the package's data."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from iopipe.bench.kernels import tuning as command
from iopipe.bench.kernels.catalogue import modules_of_cases
from iopipe.kernels.lookup import SHIPPED
from iopipe.kernels.store import read_table

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def test_shipped_configurations_are_for_the_kernels_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who edits a kernel tunes it again (`IOPIPE_TUNE_DIR=iopipe/kernels/tuned iopipe tune
    kernels`) or deletes its file: a heuristic is slower, a stale file is a warning to all."""
    monkeypatch.setattr(command, "own_folders", lambda: [])
    assert command.check_kernels(modules_of_cases()) == []


def test_every_shipped_file_is_where_it_is_looked_up_and_in_the_wheel() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["iopipe.kernels"]
    shipped = {path for pattern in patterns for path in SHIPPED.parent.glob(pattern)}
    assert shipped == {path for path in SHIPPED.rglob("*") if path.is_file()}
    for path in shipped:
        table = read_table(path)
        assert table is not None
        assert (path.stem, path.parent.name) == (table.kernel, table.gpu.folder)

"""The public names: all there, all typed, each with a contract."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import iopipe


def _typed_names() -> set[str]:
    """What a type checker sees: the imports under TYPE_CHECKING."""
    tree = ast.parse(Path(iopipe.__file__).read_text())
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iopipe.")
        for alias in node.names
    }


def test_what_is_typed_is_what_is_exported() -> None:
    assert {*iopipe.__all__} == _typed_names() | {"__version__"}
    assert iopipe.__all__ == ["__version__", *sorted({*iopipe.__all__} - {"__version__"})]


@pytest.mark.parametrize("name", sorted({*iopipe.__all__} - {"__version__"}))
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(iopipe, name)
    assert value is getattr(iopipe, name)
    own_docstring = inspect.getdoc(value)
    assert own_docstring
    assert value.__module__.startswith("iopipe.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        iopipe.no_such_name  # noqa: B018

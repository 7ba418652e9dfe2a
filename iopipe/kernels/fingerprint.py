"""What a kernel's source comes to, as one short word in the key of tuned configurations.

Stands beside `tuning`.  Invariant: comments, docstrings, layout and the version of Python
change nothing; code, defaults, decorators and the constants that the code names do.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from iopipe.kernels.configs import Kernel

_IGNORED = {"ctx", "kind", "type_comment", "type_params"}
_PLAIN = (bool, int, float, str, tuple)


def fingerprint(kernel: Kernel) -> str:
    """16 hexadecimal digits of SHA-256 over the kernel's functions and those they call."""
    digest = hashlib.sha256()
    for function in _reached(kernel.functions):
        digest.update(normalised(inspect.getsource(function)).encode())
        digest.update(repr(sorted(_constants(function))).encode())
    return digest.hexdigest()[:16]


def _reached(functions: Sequence[Any]) -> list[Any]:
    """The plain functions behind these and behind every other one that they name."""
    found: dict[str, Any] = {}
    waiting = [function.fn for function in functions]
    while waiting:
        function = waiting.pop()
        name = f"{function.__module__}.{function.__qualname__}"
        if name not in found and not name.startswith("triton."):
            found[name] = function
            named = (function.__globals__.get(name) for name in function.__code__.co_names)
            waiting += [value.fn for value in named if hasattr(value, "fn")]
    return [found[name] for name in sorted(found)]


def normalised(source: str) -> str:
    """The syntax tree as text of our own, since `ast.dump` differs between Pythons."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return _written(tree)


def _written(node: Any) -> str:
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_written(value)}"
            for name, value in ast.iter_fields(node)
            if name not in _IGNORED and value is not None and value != []
        )
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_written(item) for item in node)}]"
    return repr(node)


def _constants(function: Any) -> Iterator[tuple[str, str]]:
    """The numbers, words and `tl.constexpr` of its module that the function names."""
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        value = getattr(value, "value", value) if type(value).__name__ == "constexpr" else value
        if isinstance(value, _PLAIN):
            yield name, repr(value)

"""What can be turned in a running pipeline, and the file in which a good setting is kept.

Stands between the tuner and `Pipeline.tuned`.  Invariant: a file holds names and whole numbers,
nothing that could run, and belongs to pipelines of one shape.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from iopipe.errors import PipelineError

SCHEMA = 1
_MOST = 1 << 40
"""No number of a file is larger: bytes that are read ahead."""
_MAX_FILE_BYTES = 1 << 20

Kind: TypeAlias = Literal["threads", "processes", "depth", "read_size"]

Values: TypeAlias = Mapping[str, int]
"""Name of a knob -> where it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One number that may change while a run goes on."""

    name: str
    """'decode.threads', 'prefetch', ..."""
    kind: Kind
    least: int = 1
    most: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where all knobs of a pipeline stand; those it does not name are left as they are."""

    values: Values = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Of the pipeline it was found for, see `Pipeline.shape`; empty: fits any."""

    def save(
        self, path: str | os.PathLike[str], *, decisions: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Write it as JSON, whole or not at all; `decisions` are for people."""
        content = {
            "schema": SCHEMA,
            "shape": dict(self.shape),
            "values": dict(self.values),
            "decisions": [dict(one) for one in decisions],
        }
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Setting:
        """`PipelineError` where the file is none of ours."""
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        try:
            if len(data) > _MAX_FILE_BYTES:
                raise ValueError(f"more than {_MAX_FILE_BYTES} bytes")
            content = json.loads(data)
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}, this version reads {SCHEMA}")
            return cls(values=_checked(content["values"]), shape=dict(content["shape"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            said = f"{type(error).__name__}: {error}"
            raise PipelineError(f"{os.fspath(path)!r} is no tuned setting ({said})") from error

    def check_shape(self, shape: Mapping[str, Any]) -> None:
        """`PipelineError` where it was found for a pipeline of another shape."""
        differences = [
            f"{name} was {self.shape.get(name)!r}, is {shape.get(name)!r}"
            for name in sorted({*self.shape, *shape})
            if self.shape and self.shape.get(name) != shape.get(name)
        ]
        if differences:
            raise PipelineError(
                f"the setting was tuned for another pipeline: {'; '.join(differences)}; tune "
                "this one"
            )


def _checked(values: Any) -> dict[str, int]:
    if not isinstance(values, dict):
        raise TypeError(f"values are {values!r}")
    for name, value in values.items():
        if type(value) is not int or not 1 <= value <= _MOST:
            raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {_MOST}")
    return dict(values)

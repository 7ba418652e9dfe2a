"""What happens to samples on their way from the source to the shards.

Stands between reading and writing in a job's task.  Invariant: a transform is a function of
the samples alone, named by plain values, so that a job can be described, compared and run
again with the same result.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from iopipe.errors import DataError, PipelineError

Sample: TypeAlias = dict[str, Any]
"""`__key__` and one value a field."""

Outcome: TypeAlias = "list[Sample] | DataError"
"""What one sample became: none, one or many, or why it could not be transformed."""


class Transform(Protocol):
    """Works on a chunk at a time, so that libraries can use their own threads."""

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        """One outcome for each sample, in order."""
        ...


_BUILDERS = {
    "map": "iopipe.jobs.user_map:make_map",
    "images": "iopipe.jobs.reencode:make_images",
    "tokenise": "iopipe.jobs.tokenise:make_tokenise",
}
"""Name of a transform -> 'module:function' that makes it from its options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec:
    """A transform by name, with plain options; part of what a job is."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Transform:
        if self.name not in _BUILDERS:
            raise PipelineError(f"no transform {self.name!r}; there are {', '.join(_BUILDERS)}")
        module, _, function = _BUILDERS[self.name].partition(":")
        made: Transform = getattr(importlib.import_module(module), function)(**self.options)
        return made

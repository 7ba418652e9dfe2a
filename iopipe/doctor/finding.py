"""What the doctor says: a finding, and the rule that it was judged by.

Stands below every topic.  Invariant: a rule that could not look is `unknown`, never `fail`; and
nothing is ever changed, the command is only named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from iopipe.topology.machine import Topology
from iopipe.topology.tree import Tree

Verdict: TypeAlias = Literal["ok", "warn", "fail", "unknown"]
Who: TypeAlias = Literal["user", "admin", "cloud"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """'topic.thing', the same in every version."""
    observed: str
    threshold: str
    """What is 'ok'."""
    verdict: Verdict
    """'warn' costs speed, 'fail' stops or starves a run, 'unknown' could not be looked at."""
    why: str
    """Why it matters."""
    who: Who
    """Who can change it: the user, the machine's administrator (outside the container too), or
    whoever rents the machine out."""
    command: str
    """What would change it; never run from here.  '' where there is no such command."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """All of a finding but what was seen."""

    name: str
    threshold: str
    why: str
    who: Who
    command: str = ""

    def ok(self, observed: object) -> Finding:
        return self._finding("ok", observed)

    def warn(self, observed: object, *, command: str | None = None) -> Finding:
        return self._finding("warn", observed, command)

    def fail(self, observed: object, *, command: str | None = None) -> Finding:
        return self._finding("fail", observed, command)

    def unknown(self, reason: object, *, command: str | None = None) -> Finding:
        return self._finding("unknown", reason, command)

    def _finding(self, verdict: Verdict, observed: object, command: str | None = None) -> Finding:
        return Finding(
            name=self.name,
            observed=str(observed),
            threshold=self.threshold,
            verdict=verdict,
            why=self.why,
            who=self.who,
            command=self.command if command is None else command,
        )


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What the rules look at; tests put everything elsewhere."""

    tree: Tree
    topology: Topology
    path: str
    """Where the data is: a file or a folder."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(os.environ))

    def number(self, path: str) -> int | None:
        return self.tree.number(path)

    def text(self, path: str) -> str | None:
        return self.tree.text(path)

    def kilobytes(self, path: str, name: str) -> int | None:
        """Bytes of a line 'Name:  123 kB' or 'name 123'."""
        for line in (self.text(path) or "").splitlines():
            words = line.replace(":", " ").split()
            if len(words) > 1 and words[0] == name:
                return int(words[1]) * (1024 if words[-1] == "kB" else 1)
        return None

    def sample_file(self) -> Path | None:
        """A file of the data with something in it: `path` itself, or the first that is found
        below; None without one."""
        here = Path(self.path)
        if here.is_file():
            return here
        found = (Path(folder, name) for folder, _, names in os.walk(here) for name in names)
        return next((one for one in found if one.is_file() and one.stat().st_size), None)


Check: TypeAlias = Callable[[Patient], Finding | list[Finding]]
"""A list where there is one for each disk or GPU."""


def bracketed(text: str) -> str:
    """The choice that is made in a file such as 'always [madvise] never'."""
    return text.partition("[")[2].partition("]")[0]


def in_gib(num_bytes: float) -> str:
    return f"{num_bytes / (1 << 30):.3g} GiB"

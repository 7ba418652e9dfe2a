"""The files of /proc and /sys, below a root that tests put elsewhere.

Stands in front of everything that `topology` and `doctor` read.  Invariant: a file that is not
there, or not for this user, is None, never a guess.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path

from iopipe.errors import DataError

_MAY_BE_MISSING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.EINVAL, errno.ENODEV}
)
"""How the kernel says that a file has nothing to say: EINVAL and EIO come from files of sysfs
whose device is not up (a network card without a link has no speed)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Reads below `root`, which stands for /."""

    root: Path = Path("/")

    @property
    def is_real(self) -> bool:
        """This is the machine itself, not a copy of some files."""
        return self.root == Path("/")

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """The content without white space around it."""
        content = self.content(path)
        return None if content is None else content.decode(errors="replace").strip()

    def content(self, path: str) -> bytes | None:
        try:
            return self.at(path).read_bytes()
        except OSError as error:
            if error.errno in _MAY_BE_MISSING:
                return None
            raise

    def number(self, path: str) -> int | None:
        """A file that holds one whole number; None also where it holds something else ('max')."""
        text = self.text(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    def names(self, path: str, pattern: str = "*") -> list[str]:
        """What a folder holds, numbers within the names in their order; [] where it is missing."""
        return sorted((found.name for found in self.at(path).glob(pattern)), key=_by_number)

    def real(self, path: str) -> str | None:
        """Where links lead, as a path of this tree ('/sys/devices/...')."""
        found = self.at(path)
        if not found.exists():
            return None
        return f"/{found.resolve().relative_to(self.root.resolve())}"


def parse_cpus(text: str) -> tuple[int, ...]:
    """'0-2,8' is (0, 1, 2, 8); '' is ().  Source: cpuset(7), List format.

    `DataError` where it is no such list.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise DataError(f"{text!r} is no list of CPUs as the kernel writes them ('0-3,8')")
        first = int(match[1])
        found.update(range(first, int(match[2] or first) + 1))
    return tuple(sorted(found))


def format_cpus(cpus: tuple[int, ...]) -> str:
    """The inverse of `parse_cpus`: (0, 1, 2, 8) is '0-2,8'."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in runs)


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """node2 before node10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]

"""A process of its own in which hostile bytes are opened, with limits that the kernel holds.

Stands between the fuzz tests and `examine`.  Invariant: an example is answered within the
limits or the jail says so; a process that died is replaced, and its death is a failure of
the example that it worked on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

_EXAMINE = Path(__file__).with_name("examine.py")
_WALL_SECONDS = 30


class Escaped(AssertionError):
    """The example ended its process, or would not end."""


class Jail:
    """One long-lived child; a context manager."""

    def __init__(self, folder: Path, *, cpu_seconds: int = 5, memory_bytes: int = 1 << 28) -> None:
        """The child may write below `folder` only, and use so much processor time and memory
        for an example, above what it uses before the first one."""
        self.folder = folder
        self._limits = [str(cpu_seconds), str(memory_bytes)]
        self._child: subprocess.Popen[bytes] | None = None
        self._errors = folder / "stderr"

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def examine(self, **example: Any) -> dict[str, Any]:
        """What came of the example; `Escaped` where nothing did."""
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(example).encode() + b"\n")
            child.stdin.flush()
            readable, _, _ = select.select([child.stdout], [], [], _WALL_SECONDS)
            line = child.stdout.readline() if readable else None
        except BrokenPipeError:
            line = b""
        if not line:
            self._end()
            how = "hung" if line is None else _death(child.returncode)
            raise Escaped(f"the process {how} at {example}\n{self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self._errors, "wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-u", str(_EXAMINE), str(self.folder), *self._limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env=self._environment(),
            )
        return self._child

    def _environment(self) -> dict[str, str]:
        """Pools of memory that take as much as is asked of them, so that the limit means what
        it says."""
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "MALLOC_ARENA_MAX": "2",
            "OMP_NUM_THREADS": "1",
        }

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _last_words(self) -> str:
        return self._errors.read_text(errors="replace")[-4000:]


def _death(returncode: int) -> str:
    if returncode < 0:
        return f"died of {signal.Signals(-returncode).name}"
    return f"ended with {returncode}"

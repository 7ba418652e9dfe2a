"""Small files that appear whole or not at all.

Stands under everything that writes beside shards.  Invariant: a process killed at any
instant leaves the old content, or the new one, and at most a temporary file.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content under this name, in place of what was there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

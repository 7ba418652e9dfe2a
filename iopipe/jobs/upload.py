"""Sends finished files to a URL.

Stands between a job and storage that is no local folder.  Invariant: an error of the file
system becomes a `StorageError` that names the destination.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iopipe.errors import PipelineError, StorageError


def upload(url: str, folder: Path, names: list[str]) -> None:
    """Send files below `folder` to the same names below `url`."""
    filesystem, root = file_system(url)
    with mapped_errors(url):
        for name in names:
            filesystem.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
            filesystem.put_file(str(folder / name), f"{root}/{name}")


def file_system(url: str) -> tuple[Any, str]:
    import fsspec  # takes 50 ms, which only a URL is worth

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise PipelineError(f"no file system for {url!r}: {error}") from error
    return filesystem, str(root).rstrip("/")


@contextmanager
def mapped_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot write to {name!r}: {reason}") from error

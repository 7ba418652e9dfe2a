"""Where a job's output goes: a local folder, or a URL that shards are uploaded to.

Stands at the end of a job.  Invariant: at a URL, too, a file appears whole or not at all,
since object stores show an object when its upload is complete.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iopipe.errors import PipelineError
from iopipe.jobs.ledger import FOLDER
from iopipe.jobs.upload import file_system, mapped_errors, upload
from iopipe.storage.posix import plain_path

_OURS = (
    "shard-",
    "run-",
    "hashes-",
    "selection-",
    "manifest.json.",
    "rejected.arrow.",
    "job.json.",
)
"""How the names of a job's files begin."""


class Destination:
    """The local side of an output; at a URL it is staged in a temporary folder."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        name = os.fspath(place)
        self.url = name.rstrip("/") if "://" in name and not name.startswith("file://") else None
        self.name = name
        if name.startswith("memory://"):
            raise PipelineError(
                f"{name!r} is the memory of one process, and workers are others; choose a folder"
            )
        if self.url is None:
            self.folder = Path(plain_path(name))
        else:
            self.folder = Path(tempfile.mkdtemp(prefix="iopipe-job-"))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the destination for this job; a second one is told so."""
        if self.url is not None:
            try:
                self._check_url(self.url)
                yield
            finally:
                shutil.rmtree(self.folder)
            return
        work = self.folder / FOLDER
        self._check_empty()
        with mapped_errors(self.name):
            work.mkdir(parents=True, exist_ok=True)
            lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PipelineError(f"another job is writing to {self.name!r} now") from error
            self._sweep()
            try:
                yield
            finally:
                self._sweep()
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove what workers left that were killed, or stopped in the instant between making
        a file and knowing of it; while the destination is held and no worker runs."""
        for left in self.folder.rglob("*.tmp"):
            if left.name.startswith(_OURS):
                left.unlink(missing_ok=True)

    def fetch(self, name: str) -> None:
        """Bring a small file of an earlier start into the staging folder, if there is one."""
        if self.url is None:
            return
        filesystem, root = file_system(self.url)
        target = self.folder / name
        with mapped_errors(self.url):
            if filesystem.exists(f"{root}/{name}"):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(filesystem.cat_file(f"{root}/{name}"))

    def store(self, name: str) -> None:
        """Send a file of the staging folder to where it belongs."""
        if self.url is not None:
            upload(self.url, self.folder, [name])

    def _check_url(self, url: str) -> None:
        """The same of a URL: what is there may be somebody's dataset."""
        filesystem, root = file_system(url)
        with mapped_errors(url):
            if filesystem.exists(f"{root}/{FOLDER}/job.json"):
                return
            try:
                found = filesystem.ls(root, detail=False)
            except FileNotFoundError:
                return
        if [name for name in found if name.rstrip("/") != root]:
            raise PipelineError(f"{url!r} is not empty; choose another place, or empty it")

    def _check_empty(self) -> None:
        if self.folder.exists() and not (self.folder / FOLDER).exists():
            if not self.folder.is_dir() or any(self.folder.iterdir()):
                raise PipelineError(
                    f"{self.name!r} is not an empty folder; choose another one, or empty it"
                )

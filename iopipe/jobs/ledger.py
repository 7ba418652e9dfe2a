"""What a job has done so far: one line a task, in the folder of its output.

Stands beside the output until the manifest is written.  Invariant: a line is written when
its shard is complete, never before; a line cut off by a kill counts as not written, and its
task runs again, with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iopipe.errors import StateError
from iopipe.jobs.reading import Rejection
from iopipe.jobs.task import TaskResult
from iopipe.jobs.upload import mapped_errors
from iopipe.readers.atomic import write_atomically
from iopipe.readers.manifest import ShardEntry

FOLDER = ".iopipe-job"
_JOB, _DONE = "job.json", "done.jsonl"


class Ledger:
    """The record of one job; a single process writes it."""

    def __init__(self, destination: Path) -> None:
        self.folder = destination / FOLDER
        self._done = self.folder / _DONE

    def begin(self, identity: dict[str, Any]) -> None:
        """Note what the job is, or check that it is the one that was begun here."""
        path = self.folder / _JOB
        if not path.exists():
            with mapped_errors(str(path)):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(identity, indent=1).encode())
            return
        before = json.loads(path.read_text())
        now = json.loads(json.dumps(identity))
        differences = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r} now"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if differences:
            raise StateError(
                f"another job was begun in {str(self.folder.parent)!r}: "
                f"{'; '.join(differences)}; go on with its options, or choose another folder"
            )
        self._repair()

    def _repair(self) -> None:
        """Cut off what a kill left of the last line."""
        if self._done.exists():
            with open(self._done, "rb+") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)

    def results(self) -> Iterator[TaskResult]:
        """The tasks that are done."""
        if not self._done.exists():
            return
        with open(self._done, "rb") as file:
            for line in file:
                yield _from_plain(json.loads(line))

    def append(self, result: TaskResult) -> None:
        with mapped_errors(str(self._done)), open(self._done, "ab") as file:
            file.write(json.dumps(_as_plain(result)).encode() + b"\n")


def _as_plain(result: TaskResult) -> dict[str, Any]:
    entry = result.entry
    return {
        "number": result.number,
        "entry": entry and [entry.path, entry.num_samples, entry.num_bytes, entry.checksum],
        "columns": list(result.columns),
        "rejected": [[r.position, r.key, r.shard, r.offset, r.reason] for r in result.rejected],
        "num_read": result.num_read,
    }


def _from_plain(raw: dict[str, Any]) -> TaskResult:
    entry = raw["entry"] and ShardEntry(
        path=raw["entry"][0],
        num_samples=raw["entry"][1],
        num_bytes=raw["entry"][2],
        checksum=raw["entry"][3],
    )
    return TaskResult(
        number=raw["number"],
        entry=entry,
        columns=tuple(raw["columns"]),
        rejected=tuple(
            Rejection(position=position, key=key, shard=shard, offset=offset, reason=reason)
            for position, key, shard, offset, reason in raw["rejected"]
        ),
        num_read=raw["num_read"],
        num_bytes=entry.num_bytes if entry else 0,
    )

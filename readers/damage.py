"""What damage costs: the rows that cannot be read without it, or a shard that cannot be opened.

Stands under every source.  Invariant: a `DataError` that leaves `samples` has a row, so that the
policy for damaged samples applies to it; errors of the storage never do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from iopipe.errors import DataError, StorageError
from iopipe.protocols import ErrorPolicy

Opened = TypeVar("Opened")


def charge(error: DataError, row: int) -> None:
    """Damage that has no row of its own is charged to this one."""
    if error.row is None:
        error.row = row


def open_shards(
    paths: Sequence[str], open_one: Callable[[str], Opened], on_error: ErrorPolicy
) -> tuple[list[Opened | None], list[DataError]]:
    """Every shard, None where it is damaged as a whole, and what is wrong with those.  The
    first such error is raised where the policy is to raise, or where nothing would be left."""
    found: list[Opened | None] = []
    faults: list[DataError] = []
    for path in paths:
        try:
            found.append(open_one(path))
        except DataError as error:
            if on_error == "raise":
                raise
            found.append(None)
            faults.append(error.with_traceback(None))
    if faults and len(faults) == len(paths):
        raise faults[0]
    return found, faults


def of_arrow(error: Exception, path: str, what: str) -> DataError | StorageError:
    """In place of an exception that pyarrow raised: of the operating system, which has a number,
    or of what the bytes say."""
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(f"cannot read {path!r}: {error.strerror or error}")
    return DataError(f"{what}: {error}", shard=path)

"""The stores of local files, small enough for tests to reach their limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iopipe.errors import StorageError
from iopipe.protocols import Store
from iopipe.storage import DirectStore, MappedStore, PosixStore, UringStore


def _uring(*, direct: bool) -> Store:
    try:
        return UringStore(queue_depth=8, bounce_bytes=8192, direct=direct, max_open_files=8)
    except StorageError as error:
        if "forbids it" in str(error) or "hides it" in str(error) or "6.1" in str(error):
            pytest.skip(str(error))
        raise


LOCAL: dict[str, Callable[[], Store]] = {
    "posix": lambda: PosixStore(num_threads=4, max_open_files=8),
    "direct": lambda: DirectStore(num_threads=4, bounce_bytes=8192, max_open_files=8),
    "direct-here": lambda: DirectStore(num_threads=0, bounce_bytes=8192, max_open_files=8),
    "uring": lambda: _uring(direct=True),
    "uring-buffered": lambda: _uring(direct=False),
    "mapped": lambda: MappedStore(max_maps=2),
}

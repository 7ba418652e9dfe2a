"""From a URL to the store that serves it.

The one place that knows all backends.  Invariant: the scheme alone decides, so that two
URLs of one scheme share one kind of store.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from iopipe.protocols import Store
from iopipe.storage.memory import MemoryStore
from iopipe.storage.posix import PosixStore
from iopipe.storage.remote import RemoteStore


def open_store(url: str, **options: Any) -> Store:
    """A store for `url` and its neighbours; the caller closes it.

    A plain path or `file://` gives a new `PosixStore(**options)`; `memory://` gives the one
    `MemoryStore` of this process, which takes no options; any other URL a `RemoteStore` over
    the file system that fsspec has for it.
    """
    scheme = _scheme(url)
    if scheme == "file":
        return PosixStore(**options)
    if scheme == "memory":
        return _memory_of_this_process(**options)
    return RemoteStore(url, **options)


def _scheme(url: str) -> str:
    """RFC 3986, section 3.1, with the `//` demanded: 'a:b.tar' is a file's name."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return found[1].lower() if found else "file"


@functools.cache
def _memory_of_this_process() -> MemoryStore:
    return MemoryStore()

"""From a URL to the store that serves it.

The one place that knows all backends.  Invariant: what the caller asked for by name is what he
gets, or an error; two URLs of one scheme share one kind of store.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import Store
from iopipe.storage.direct import DirectStore
from iopipe.storage.mapped import MappedStore
from iopipe.storage.memory import MemoryStore
from iopipe.storage.posix import PosixStore
from iopipe.storage.remote import RemoteStore
from iopipe.storage.uring import UringStore

Backend: TypeAlias = Literal["posix", "direct", "uring", "mapped", "gds", "objects"]
Requirement: TypeAlias = Literal["gpudirect"]


def open_store(
    url: str, *, prefer: Backend | None = None, require: Requirement | None = None, **options: Any
) -> Store:
    """A store for `url` and its neighbours; the caller closes it.

    A plain path or `file://` gives a new store of local files: `PosixStore(**options)`, or the
    one that `prefer` names; `memory://` gives the one `MemoryStore` of this process, which
    takes no options; any other URL a `RemoteStore` over the file system that fsspec has for
    it, or with `prefer="objects"` an `ObjectStore`: S3, GCS, Azure and HTTP through obstore.
    `require="gpudirect"`, with `prefer="gds"`, demands that the device's bytes reach the GPU
    without passing through host memory, and is a `StorageError` where they do not.
    """
    scheme = _scheme(url)
    if prefer is not None and prefer not in get_args(Backend):
        raise PipelineError(f"prefer is {prefer!r}: give one of {', '.join(get_args(Backend))}")
    if require not in (None, *get_args(Requirement)):
        raise PipelineError(f"require is {require!r}: give 'gpudirect' or nothing")
    if require is not None and prefer != "gds":
        raise PipelineError(f"require={require!r} is for GPU memory: give prefer='gds' with it")
    if prefer == "objects":
        from iopipe.storage.objects import ObjectStore

        return ObjectStore(url, **options)
    if scheme == "file":
        return _local(url, prefer or "posix", require, options)
    if prefer is not None:
        raise StorageError(f"prefer={prefer!r} is for local files, not for {url!r}: leave it out")
    if scheme == "memory":
        return _memory_of_this_process(**options)
    return RemoteStore(url, **options)


def _local(
    url: str, backend: Backend, require: Requirement | None, options: dict[str, Any]
) -> Store:
    if backend == "gds":
        from iopipe.storage.gds import GdsStore

        return GdsStore(url, require=require, **options)
    return _LOCAL[backend](**options)


_LOCAL: dict[str, Callable[..., Store]] = {
    "posix": PosixStore,
    "direct": DirectStore,
    "mapped": MappedStore,
    "uring": UringStore,
}


def _scheme(url: str) -> str:
    """RFC 3986, section 3.1, with the `//` demanded: 'a:b.tar' is a file's name."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return found[1].lower() if found else "file"


@functools.cache
def _memory_of_this_process() -> MemoryStore:
    return MemoryStore()

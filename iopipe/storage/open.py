"""From a URL to the store that serves it.

The one place that knows all backends.  Invariant: what the caller asked for by name is what he
gets, or an error; two URLs of one scheme share one kind of store.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import Store
from iopipe.storage.direct import DirectStore
from iopipe.storage.mapped import MappedStore
from iopipe.storage.memory import MemoryStore
from iopipe.storage.object_client import SCHEMES
from iopipe.storage.posix import PosixStore
from iopipe.storage.remote import RemoteStore
from iopipe.storage.uring import UringStore

Backend: TypeAlias = Literal["posix", "direct", "uring", "mapped", "gds", "objects", "fsspec"]
Requirement: TypeAlias = Literal["gpudirect"]


def open_store(
    url: str,
    *,
    prefer: Backend | None = None,
    require: Requirement | None = None,
    cache: str | os.PathLike[str] | None = None,
    max_cache_bytes: int | None = None,
    **options: Any,
) -> Store:
    """A store for `url` and its neighbours; the caller closes it.

    A plain path or `file://` gives a new store of local files: `PosixStore(**options)`, or the
    one that `prefer` names; `memory://` gives the one `MemoryStore` of this process, which
    takes no options; S3, GCS, Azure and HTTP an `ObjectStore`, through obstore; any other URL,
    and those with `prefer="fsspec"`, a `RemoteStore` over the file system that fsspec has for
    it.  A missing package is a `MissingDependency` that names it, never another way.

    `cache` is a folder of a local disk where what was read is kept, up to `max_cache_bytes`,
    for all processes of this machine (`CachedStore`); it is for stores that are remote.

    `require="gpudirect"`, with `prefer="gds"`, demands that the device's bytes reach the GPU
    without passing through host memory, and is a `StorageError` where they do not.
    """
    if prefer is not None and prefer not in get_args(Backend):
        raise PipelineError(f"prefer is {prefer!r}: give one of {', '.join(get_args(Backend))}")
    if require not in (None, *get_args(Requirement)):
        raise PipelineError(f"require is {require!r}: give 'gpudirect' or nothing")
    if require is not None and prefer != "gds":
        raise PipelineError(f"require={require!r} is for GPU memory: give prefer='gds' with it")
    if (cache is None) != (max_cache_bytes is None):
        raise PipelineError("cache and max_cache_bytes belong together: give both, or neither")
    scheme = _scheme(url)
    is_local = scheme in ("file", "memory") and prefer not in ("objects", "fsspec")
    if not is_local:
        store = _remote(url, scheme, prefer, options)
        if cache is None or max_cache_bytes is None:
            return store
        from iopipe.storage.cache import CachedStore

        return CachedStore(store, cache, max_bytes=max_cache_bytes)
    if cache is not None:
        raise PipelineError(
            f"cache is for remote stores, and {url!r} is here already: leave it out"
        )
    if scheme == "file":
        return _local(url, prefer or "posix", require, options)
    if prefer is not None:
        raise _for_local_files(url, prefer)
    return _memory_of_this_process(**options)


def _remote(url: str, scheme: str, prefer: Backend | None, options: dict[str, Any]) -> Store:
    if prefer not in (None, "objects", "fsspec"):
        raise _for_local_files(url, prefer)
    if prefer == "objects" or (prefer is None and scheme in SCHEMES):
        from iopipe.storage.objects import ObjectStore

        return ObjectStore(url, **options)
    return RemoteStore(url, **options)


def _for_local_files(url: str, prefer: str) -> StorageError:
    shown = url.partition("?")[0]
    return StorageError(f"prefer={prefer!r} is for local files, not for {shown!r}: leave it out")


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

"""obstore: how it is opened, and how its answers are taken.

Stands below `storage.objects`, and is the one place that imports obstore.  Invariant: an answer
is as long as it was asked for, or an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from iopipe.errors import MissingDependency, StorageError
from iopipe.storage.answers import Incomplete, cleaned, said, shown

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https")
_WITH_CONTAINER = ("abfs", "abfss")

_STALL_SECONDS = 15.0
"""A connection that brings nothing for so long is given up."""
_COLLECTED_BYTES, _STREAM_BYTES = 1 << 20, 1 << 18


def open_client(root: str, options: dict[str, Any], deadline_seconds: float) -> tuple[Any, Any]:
    try:
        import obstore
        import obstore.exceptions
        from obstore.store import from_url
    except ImportError as error:
        raise MissingDependency(
            f"iopipe.storage.objects needs obstore for {root}: pip install 'iopipe[objects]', "
            "or ask for prefer='fsspec'"
        ) from error
    stall = min(_STALL_SECONDS, deadline_seconds)
    client_options: Any = {
        "timeout": f"{int(deadline_seconds * 1000)}ms",
        "read_timeout": f"{int(stall * 1000)}ms",
        "connect_timeout": "10s",
    }
    if root.startswith("http://") or str(options.get("endpoint", "")).startswith("http://"):
        client_options["allow_http"] = True
    client_options |= options.get("client_options", {})
    rest: Any = {name: value for name, value in options.items() if name != "client_options"}
    try:
        # Its own retries would hide from us that the server is asked too often.
        client = from_url(
            root, client_options=client_options, retry_config={"max_retries": 0}, **rest
        )
    except (ValueError, TypeError, obstore.exceptions.BaseError) as error:
        raise StorageError(f"no store for {root!r}: {said(error)}") from cleaned(error)
    return obstore, client


def root_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise StorageError(f"no store for {shown(url)}: give a URL of {', '.join(SCHEMES)}")
    # Of Azure's own form, abfss://container@account.dfs.core.windows.net/, it is no user.
    if parts.password or (parts.username and parts.scheme not in _WITH_CONTAINER):
        raise StorageError("a URL must not hold a user or a password: give them as options")
    return f"{parts.scheme}://{parts.netloc}"


def parts_of(answer: Any, num_bytes: int) -> Iterator[memoryview]:
    """The bytes of an answer.  A large one is copied out while it still comes, by parts that
    caches hold: that takes less CPU than to collect it first."""
    if num_bytes <= _COLLECTED_BYTES:
        yield memoryview(answer.bytes()).cast("B")[:num_bytes]
        return
    left = num_bytes
    for part in answer.stream(_STREAM_BYTES):
        yield memoryview(part).cast("B")[:left]
        left -= min(left, len(part))


def check_length(num_bytes: int, wanted: int) -> None:
    if num_bytes != wanted:
        raise Incomplete(f"incomplete answer: {num_bytes} of {wanted} bytes")

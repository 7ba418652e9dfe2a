"""Objects of S3, GCS, Azure and plain HTTP servers, by ranges, through obstore.

Stands where `storage.posix` stands, for URLs.  Invariant: all bytes of an object come from one
version of it, the one that was there when this store first looked; if it changes, that is an
error.  No message, log line or `repr` holds a credential or a URL's query.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any
from urllib.parse import urlsplit

from iopipe.errors import MissingDependency, NotFoundError, PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.coalesce import SplitReads, check_task_bytes, split_requests
from iopipe.storage.pace import Pace
from iopipe.storage.threads import ReadThreads, SharedReads

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https")

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 5.0
_TOO_OFTEN = re.compile(r"\b(429|503)\b|SlowDown|TooManyRequests|ServerBusy", re.IGNORECASE)
_PASSING = re.compile(
    r"\b(500|502|504)\b|timed? ?out|connection|reset|broken pipe|incomplete|unexpected e|"
    r"error sending|error decoding|InternalError|RequestTimeout",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"(\?|%3F)\S*|(?i:(authorization|x-amz-[a-z-]+|signature|sig|token|key|secret|password)"
    r"[\"']?\s*[:=]\s*)\S+"
)


@dataclass(frozen=True, slots=True)
class _Version:
    """An object as it was first seen."""

    size: int
    tag: str | None
    word: str


class ObjectStore:
    """A `Store` over one bucket or one HTTP server; paths are whole URLs.

    `options` are obstore's own (region, endpoint, credentials, ...); what is not given is
    looked for as obstore does: environment, then the machine's metadata service.  Ranges longer
    than `part_bytes` are cut; at most `concurrency` requests are under way, fewer while the
    server is found to be slower.  A request is tried again, with growing and random pauses,
    until `deadline_seconds` have passed.

    A pickled store travels as its settings, credentials among `options` included.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        part_bytes: int = 8 << 20,
        concurrency: int = 32,
        deadline_seconds: float = 60.0,
    ) -> None:
        check_task_bytes(part_bytes)
        if concurrency < 1:
            raise PipelineError(f"concurrency={concurrency} must be 1 or more")
        self._root = _root_of(url)
        self._options = dict(options or {})
        self._part_bytes = part_bytes
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._obstore, self._client = _client(self._root, self._options)
        self._pace = Pace(max_places=concurrency)
        self._versions: dict[str, _Version] = {}
        self._lock = threading.Lock()
        self._threads = ReadThreads(concurrency, name="iopipe-objects")

    def __reduce__(self) -> tuple[Callable[..., ObjectStore], tuple[Any, ...]]:
        settings = {
            "options": self._options,
            "part_bytes": self._part_bytes,
            "concurrency": self._concurrency,
            "deadline_seconds": self._deadline_seconds,
        }
        return _from_settings, (self._root, settings)

    def __repr__(self) -> str:
        return f"ObjectStore({self._root!r})"

    @property
    def num_refused(self) -> int:
        """Requests that the server refused because it was asked too often."""
        return self._pace.num_refused

    def size(self, path: str) -> int:
        return self._look(path).size

    def version(self, path: str) -> str:
        """The ETag where there is one, else size and time of the last change."""
        return self._look(path).word

    def glob(self, pattern: str) -> list[str]:
        key = self._key(pattern)
        prefix = re.split(r"[*?\[]", key, maxsplit=1)[0].rpartition("/")[0]
        wanted = re.compile(_pattern(key))
        found = self._tried("list", pattern, lambda: self._listed(prefix))
        return sorted(f"{self._root}/{one}" for one in found if wanted.fullmatch(one))

    def local_path(self, path: str) -> None:
        return None

    def view(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self.submit([ReadRequest(path, offset, buffer)]).wait()[0]

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        split = split_requests(requests, task_bytes=self._part_bytes)
        tasks = requests if split is None else split.requests
        reads = SharedReads(len(tasks))
        self._threads.start(tasks, deque(range(len(tasks))), reads, self._read)
        return reads if split is None else SplitReads(reads, split)

    def describe(self) -> str:
        rate = self._pace.rate
        paced = "" if rate is None else f", held to {rate:.0f} requests/s"
        return (
            f"objects: {self._root} through obstore, parts of {self._part_bytes >> 10} KiB, "
            f"up to {self._concurrency} at once{paced}"
        )

    def close(self) -> None:
        """Wait for the reads under way and end the threads; idempotent."""
        self._threads.close()

    # ---- one request -----------------------------------------------------------------

    def _read(self, request: ReadRequest) -> int:
        path, offset, buffer = request.path, request.offset, request.buffer
        if offset < 0:
            raise StorageError(f"cannot read {_shown(path)} at offset {offset}: give 0 or more")
        version = self._look(path)
        end = min(offset + len(buffer), version.size)
        if offset >= end:
            return 0
        action = f"read {end - offset} bytes at offset {offset} of"
        get: dict[str, Any] = {"range": (offset, end)}
        if version.tag is not None:
            get["if_match"] = version.tag

        def fetch() -> int:
            result = self._obstore.get(self._client, self._key(path), options=get)
            content = memoryview(result.bytes()).cast("B")
            if len(content) != end - offset or result.meta["size"] != version.size:
                raise _Incomplete(f"incomplete answer: {len(content)} of {end - offset} bytes")
            buffer[: len(content)] = content
            return len(content)

        return int(self._tried(action, path, fetch))

    def _look(self, path: str) -> _Version:
        with self._lock:
            found = self._versions.get(path)
        if found is None:
            found = self._tried("find", path, lambda: self._head(path))
            with self._lock:
                found = self._versions.setdefault(path, found)
        return found

    def _head(self, path: str) -> _Version:
        about = self._obstore.head(self._client, self._key(path))
        tag = about.get("e_tag")
        # A weak tag names no bytes, and servers refuse to compare ranges by it.
        strong = tag if tag and not tag.startswith("W/") else None
        word = tag or f"{about['size']}-{about['last_modified']}"
        return _Version(int(about["size"]), strong, word)

    def _listed(self, prefix: str) -> list[str]:
        parts = self._obstore.list(self._client, prefix or None)
        return [str(one["path"]) for part in parts for one in part]

    def _tried(self, action: str, path: str, call: Callable[[], Any]) -> Any:
        """`call()`, again and again while its failures may pass."""
        end = time.monotonic() + self._deadline_seconds
        pause = _BACKOFF_SECONDS
        while True:
            start = self._pace.begin()
            try:
                result = call()
            except Exception as error:
                is_refused = self._note(error, start)
                if not (is_refused or _passes(error)):
                    raise self._mapped(error, action, path) from _cleaned(error)
                if time.monotonic() + pause > end:
                    raise StorageError(
                        f"cannot {action} {_shown(path)} within {self._deadline_seconds:g} s: "
                        f"{_said(error)}"
                    ) from _cleaned(error)
                _log.debug("%s %s again: %s", action, _shown(path), _said(error))
            else:
                self._pace.served()
                return result
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _MAX_BACKOFF_SECONDS)

    def _note(self, error: Exception, start: float) -> bool:
        is_refused = _TOO_OFTEN.search(_said(error)) is not None
        if is_refused:
            self._pace.refused(start)
        else:
            self._pace.failed()
        return is_refused

    def _mapped(self, error: Exception, action: str, path: str) -> StorageError:
        kinds = self._obstore.exceptions
        what = f"cannot {action} {_shown(path)}"
        if isinstance(error, kinds.NotFoundError | FileNotFoundError):
            return NotFoundError(f"{what}: there is no such object")
        if isinstance(error, kinds.PreconditionError):
            return StorageError(f"{what}: it changed since it was opened; open the dataset again")
        if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
            return StorageError(f"{what}: the server refuses it; {self._chain()}")
        return StorageError(f"{what}: {type(error).__name__}: {_said(error)}")

    def _chain(self) -> str:
        given = sorted(self._options)
        return (
            f"credentials were looked for in the options given ({', '.join(given) or 'none'}), "
            "then the environment, then the machine's metadata service"
        )

    def _key(self, path: str) -> str:
        start = f"{self._root}/"
        if not path.startswith(start):
            raise StorageError(f"{_shown(path)} does not lie in {self._root}: open another store")
        return path[len(start) :]


class _Incomplete(Exception):
    """An answer that is shorter than it said."""


def _client(root: str, options: dict[str, Any]) -> tuple[Any, Any]:
    try:
        import obstore
        import obstore.exceptions
        from obstore.store import from_url
    except ImportError as error:
        raise MissingDependency(
            "iopipe.storage.objects needs obstore: pip install 'iopipe[objects]'"
        ) from error
    client_options: Any = {"timeout": "30s", "connect_timeout": "10s"}
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
        raise StorageError(f"no store for {root!r}: {_said(error)}") from _cleaned(error)
    return obstore, client


def _root_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise StorageError(f"no store for {_shown(url)}: give a URL of {', '.join(SCHEMES)}")
    if parts.username or parts.password:
        raise StorageError("a URL must not hold a user or a password: give them as options")
    return f"{parts.scheme}://{parts.netloc}"


def _passes(error: Exception) -> bool:
    return isinstance(error, _Incomplete | TimeoutError | ConnectionError) or (
        type(error).__name__ == "GenericError" and _PASSING.search(_said(error)) is not None
    )


def _said(error: BaseException) -> str:
    """The message without what may be secret."""
    return _SECRETS.sub("[left out]", str(error))[:500]


def _cleaned(error: Exception) -> Exception:
    """The cause that a traceback shows must be as clean as the message."""
    return RuntimeError(f"{type(error).__name__}: {_said(error)}")


def _shown(path: str) -> str:
    """A path in a message: without a query, where presigned URLs have their signature."""
    return repr(path.partition("?")[0])


def _pattern(key: str) -> str:
    """As `glob.glob` with `recursive=True`: `*` stops at `/`."""
    parts = []
    for part in key.split("/"):
        within = translate(part).removeprefix("(?s:").removesuffix(r")\Z")
        parts.append(".*" if part == "**" else within.replace(".*", "[^/]*"))
    return "/".join(parts).replace(".*/", "(?:.*/)?")


def _from_settings(root: str, settings: dict[str, Any]) -> ObjectStore:
    return ObjectStore(root, **settings)

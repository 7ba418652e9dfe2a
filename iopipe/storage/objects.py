"""Objects of S3, GCS, Azure and plain HTTP servers, by ranges, through obstore.

Stands where `storage.posix` stands, for URLs.  Invariant: all bytes of an object come from one
version of it, the one that was there when this store first looked; if it changes, that is an
error.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.answers import (
    Changed,
    cleaned,
    comparable,
    is_of_credentials,
    is_too_often,
    mapped,
    may_pass,
    said,
    shown,
)
from iopipe.storage.coalesce import SplitReads, check_task_bytes, split_requests
from iopipe.storage.hedging import Hedges, Over, Race, RacedReads
from iopipe.storage.object_client import check_length, open_client, parts_of, root_of
from iopipe.storage.pace import Pace
from iopipe.storage.patterns import matches
from iopipe.storage.threads import ReadThreads

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 5.0
_CREDENTIAL_SECONDS = 3.0
"""For how long credentials are looked for again: a metadata service may be asked too often."""
_HEDGE_THREADS = 4
_NEVER = datetime.fromtimestamp(0, UTC)
"""obstore's word for a server that does not say when."""


@dataclass(frozen=True, slots=True)
class _Version:
    """An object as it was first seen."""

    size: int
    entity_tag: str | None
    changed_at: datetime
    """Says something where there is no tag."""

    @property
    def word(self) -> str:
        return self.entity_tag or f"{self.size}-{self.changed_at}"

    def is_of(self, about: Any) -> bool:
        """Whether an answer's bytes are of this version, as far as the server tells."""
        tag = about.get("e_tag")
        if about["size"] != self.size:
            return False
        if tag and self.entity_tag:
            return bool(tag.removeprefix("W/") == self.entity_tag.removeprefix("W/"))
        return bool(tag or self.entity_tag or about["last_modified"] in (self.changed_at, _NEVER))


class ObjectStore:
    """A `Store` over one bucket or one HTTP server; paths are whole URLs.

    `options` are obstore's own (region, endpoint, credentials, ...); what is not given is
    looked for as obstore does: environment, then the machine's metadata service.  Ranges longer
    than `part_bytes` are cut; at most `concurrency` requests are under way, fewer while the
    server is found to be slower.  A request is tried again, with growing and random pauses,
    until `deadline_seconds` have passed since it was first sent.  One that takes unusually long
    is sent a second time, as long as that costs no more than `hedge_share` of the bytes.

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
        hedge_share: float = 0.02,
    ) -> None:
        check_task_bytes(part_bytes, name="part_bytes")
        if concurrency < 1:
            raise PipelineError(f"concurrency={concurrency} must be 1 or more")
        if not deadline_seconds > 0:
            raise PipelineError(f"deadline_seconds={deadline_seconds:g} must be more than 0")
        if not 0 <= hedge_share <= 1:
            raise PipelineError(f"hedge_share={hedge_share} must be from 0, for none, to 1")
        self._root = root_of(url)
        self._options = dict(options or {})
        self._part_bytes = part_bytes
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._hedge_share = hedge_share
        self._obstore, self._client = open_client(self._root, self._options, deadline_seconds)
        self._pace = Pace(max_places=concurrency)
        self._hedges = Hedges(share=hedge_share)
        self._versions: dict[str, _Version] = {}
        self._asked: dict[str, Future[_Version]] = {}
        self._lock = threading.Lock()
        self._threads = ReadThreads(concurrency, name="iopipe-objects")
        self._hedge_threads = ReadThreads(_HEDGE_THREADS, name="iopipe-objects-hedges")

    def __reduce__(self) -> tuple[Callable[..., ObjectStore], tuple[Any, ...]]:
        settings = {
            "options": self._options,
            "part_bytes": self._part_bytes,
            "concurrency": self._concurrency,
            "deadline_seconds": self._deadline_seconds,
            "hedge_share": self._hedge_share,
        }
        return _from_settings, (self._root, settings)

    def __repr__(self) -> str:
        return f"ObjectStore({self._root!r})"

    @property
    def num_refused(self) -> int:
        """Requests that the server refused because it was asked too often."""
        return self._pace.num_refused

    @property
    def num_hedged(self) -> int:
        """Requests that were late and were sent a second time."""
        return self._hedges.num_hedged

    @property
    def num_hedges_won(self) -> int:
        """Those of them whose second answer came first."""
        return self._hedges.num_won

    def size(self, path: str) -> int:
        return self._look(path).size

    def version(self, path: str) -> str:
        """The ETag where there is one, else size and time of the last change."""
        return self._look(path).word

    def glob(self, pattern: str) -> list[str]:
        key = self._key(pattern)
        prefix = re.split(r"[*?\[]", key, maxsplit=1)[0].rpartition("/")[0]
        found = self._tried("list", pattern, lambda _: self._listed(prefix))
        return sorted(f"{self._root}/{one}" for one in found if matches(one, key))

    def local_path(self, path: str) -> None:
        return None

    def view(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self.submit([ReadRequest(path, offset, buffer)]).wait()[0]

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        split = split_requests(requests, task_bytes=self._part_bytes)
        tasks = requests if split is None else split.requests
        reads = RacedReads(tasks, look_after=self._look_after)
        self._threads.run(partial(reads.drain, self._serve), num_threads=len(tasks))
        return reads if split is None else SplitReads(reads, split)

    def describe(self) -> str:
        rate = self._pace.rate
        paced = "" if rate is None else f", held to {rate:.0f} requests/s"
        return (
            f"objects: {self._root} through obstore, parts of {self._part_bytes >> 10} KiB, "
            f"up to {self._concurrency} at once{paced}"
        )

    def close(self) -> None:
        """Wait for the reads under way, end threads and connections; idempotent."""
        self._threads.close()
        self._hedge_threads.close()
        self._client = None

    # ---- one request -----------------------------------------------------------------

    def _serve(self, race: Race) -> None:
        path, offset = race.request.path, race.request.offset
        if offset < 0:
            raise StorageError(f"cannot read {shown(path)} at offset {offset}: give 0 or more")
        version = self._look(path)
        end = min(offset + len(race.request.buffer), version.size)
        if offset >= end:
            race.win(memoryview(b""))
            return

        def fetch(start: float) -> None:
            if race.is_over:
                raise Over
            race.begun = race.begun or start
            answer = self._ask(path, offset, end, version)
            num_bytes = 0
            for part in parts_of(answer, end - offset):
                race.put(num_bytes, part)
                num_bytes += len(part)
            check_length(num_bytes, end - offset)
            self._hedges.served(num_bytes, time.monotonic() - start)
            race.done(num_bytes)

        self._tried(_reading(race.request), path, fetch)

    def _ask(self, path: str, offset: int, end: int, version: _Version) -> Any:
        """obstore's answer, whose bytes are still to come."""
        get: dict[str, Any] = {"range": (offset, end)}
        if (tag := comparable(version.entity_tag)) is not None:
            get["if_match"] = tag
        result = self._obstore.get(self._client, self._key(path), options=get)
        # A server or a cache between may not look at If-Match.
        if not version.is_of(result.meta):
            raise Changed
        return result

    def _look_after(self, race: Race) -> None:
        """Called by the thread that waits for a race: is it late, is its time up?"""
        assert race.begun is not None
        if time.monotonic() - race.begun > self._deadline_seconds + _BACKOFF_SECONDS:
            where = f"{_reading(race.request)} {shown(race.request.path)}"
            race.fail(
                StorageError(f"cannot {where} within {self._deadline_seconds:g} s: no answer")
            )
        elif self._pace.rate is None and self._hedges.may_ask_twice(race):
            self._hedge_threads.run(partial(self._hedge, race), num_threads=1)

    def _hedge(self, race: Race) -> None:
        request, version = race.request, self._look(race.request.path)
        start = self._pace.begin_beside()
        try:
            end = min(request.offset + len(request.buffer), version.size)
            answer = self._ask(request.path, request.offset, end, version)
            content = memoryview(answer.bytes()).cast("B")
            check_length(len(content), end - request.offset)
            race.win(content)
        except Over:
            self._pace.failed()
        except Exception as error:  # the first request goes on and says what is wrong
            self._note(error, start)
            _log.debug("second try of %s: %s", shown(request.path), said(error))
        else:
            self._pace.served()
            self._hedges.won()

    def _look(self, path: str) -> _Version:
        """Whoever comes first asks; others that come meanwhile get the same answer."""
        with self._lock:
            found = self._versions.get(path)
            if found is not None:
                return found
            asked = self._asked.get(path)
            if is_first := asked is None:
                asked = self._asked[path] = Future()
        if is_first:
            self._find(path, asked)
        return asked.result()

    def _find(self, path: str, asked: Future[_Version]) -> None:
        try:
            key = self._key(path)
            found = self._tried("find", path, lambda _: self._head(key))
        except BaseException as error:
            with self._lock:
                del self._asked[path]
            asked.set_exception(error)
        else:
            with self._lock:
                self._versions[path] = found
                del self._asked[path]
            asked.set_result(found)

    def _head(self, key: str) -> _Version:
        about = self._obstore.head(self._client, key)
        return _Version(int(about["size"]), about.get("e_tag"), about["last_modified"])

    def _listed(self, prefix: str) -> list[str]:
        parts = self._obstore.list(self._client, prefix or None)
        return [str(one["path"]) for part in parts for one in part]

    def _tried(self, action: str, path: str, call: Callable[[float], Any]) -> Any:
        """`call(start)`, again and again while its failures may pass."""
        if self._client is None or self._threads.is_forked():
            self._threads.check_usable()
        begun: float | None = None
        pause = _BACKOFF_SECONDS
        while True:
            start = self._pace.begin()
            begun = begun or start
            try:
                result = call(start)
            except Over:
                self._pace.failed()
                raise
            except Exception as error:
                is_refused = self._note(error, start)
                what = f"cannot {action} {shown(path)}"
                if not (is_refused or may_pass(error)):
                    raise self._mapped(error, what) from cleaned(error)
                if time.monotonic() + pause > begun + self._patience_seconds(error):
                    if not is_of_credentials(error):
                        what += f" within {self._deadline_seconds:g} s"
                    raise self._mapped(error, what) from cleaned(error)
                _log.debug("%s %s again: %s", action, shown(path), said(error))
            else:
                self._pace.served()
                return result
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _MAX_BACKOFF_SECONDS)

    def _patience_seconds(self, error: Exception) -> float:
        limit = _CREDENTIAL_SECONDS if is_of_credentials(error) else self._deadline_seconds
        return min(limit, self._deadline_seconds)

    def _note(self, error: Exception, start: float) -> bool:
        is_refused = is_too_often(error)
        if is_refused:
            self._pace.refused(start)
        else:
            self._pace.failed()
        return is_refused

    def _mapped(self, error: Exception, what: str) -> StorageError:
        scheme = self._root.partition("://")[0]
        return mapped(error, what, scheme=scheme, options=self._options)

    def _key(self, path: str) -> str:
        start = f"{self._root}/"
        if not path.startswith(start):
            raise StorageError(f"{shown(path)} does not lie in {self._root}: open another store")
        if "?" in path and start.startswith("http"):
            raise StorageError(
                f"{shown(path)} has a query: presigned URLs are read with prefer='fsspec'"
            )
        return path[len(start) :]


def _reading(request: ReadRequest) -> str:
    return f"read {len(request.buffer)} bytes at offset {request.offset} of"


def _from_settings(root: str, settings: dict[str, Any]) -> ObjectStore:
    return ObjectStore(root, **settings)

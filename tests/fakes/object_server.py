"""A server of objects on this machine, with the faults of real ones, as told.

Speaks enough of HTTP (RFC 9110: ranges, entity tags) and of S3 (path style, ListObjectsV2).
"""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass
class Faults:
    """What the next requests meet, for each a word: '' for none, a status, 'reset', 'cut' (half
    of the body), 'hang' (nothing until `released`), 'tag' (another version)."""

    coming: deque[str] = field(default_factory=deque)
    rate: float | None = None
    """Requests a second, `burst` above it for once; others are answered with 503."""
    burst: int = 5


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ObjectServer:
    """Objects by key, served under `url` as plain HTTP and as the bucket of that name."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults = Faults()
        self.statuses: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.num_connections = 0
        self.tags: Literal["strong", "weak", "none"] = "strong"
        self.changed_at = "Mon, 23 Nov 2026 10:00:00 GMT"
        self.released = threading.Event()
        """Set it and what hangs goes on."""
        self._lock = threading.Lock()
        self._level, self._at = 0.0, time.monotonic()
        self._server = _Quiet(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.endpoint}/"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_fault(self) -> str:
        with self._lock:
            if self.faults.coming:
                return self.faults.coming.popleft()
            return "503" if self._is_too_often() else ""

    def _is_too_often(self) -> bool:
        """A leaky bucket, as nginx's limit_req has it."""
        if self.faults.rate is None:
            return False
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._at) * self.faults.rate)
        self._at = now
        if self._level > self.faults.burst:
            return True
        self._level += 1
        return False


def _handler(server: ObjectServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.num_connections += 1

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

        def do_HEAD(self) -> None:
            self._serve(lambda content: b"")

        def do_GET(self) -> None:
            self._serve(lambda content: content)

        def _serve(self, body: Callable[[bytes], bytes]) -> None:
            server.headers.append({name.lower(): word for name, word in self.headers.items()})
            fault = server.next_fault()
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
                return
            if fault == "hang":
                server.released.wait(60)
            if fault.isdigit():
                self._answer(int(fault), SLOW_DOWN if fault == "503" else b"")
                return
            parts = urlsplit(self.path)
            if "list-type" in parts.query:
                self._list(parse_qs(parts.query).get("prefix", [""])[0])
                return
            content = server.objects.get(parts.path.lstrip("/"))
            if content is None:
                self._answer(404, b"")
                return
            self._object(content, body, fault)

        def _object(self, content: bytes, body: Callable[[bytes], bytes], fault: str) -> None:
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            if fault == "tag":
                tag = '"another"'
            elif self.headers.get("If-Match", tag) != tag or (
                "If-Match" in self.headers and server.tags != "strong"
            ):
                self._answer(412, b"")
                return
            headers = {"ETag": tag, "Last-Modified": server.changed_at}
            if server.tags == "weak":
                headers["ETag"] = f"W/{tag}"
            elif server.tags == "none":
                del headers["ETag"]
            first, last, status = 0, len(content) - 1, 200
            if wanted := self.headers.get("Range"):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                first, last, status = int(start), min(int(end), len(content) - 1), 206
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            part = content[first : last + 1]
            self._answer(
                status, body(part), headers=headers, length=len(part), is_cut=fault == "cut"
            )

        def _list(self, prefix: str) -> None:
            bucket = self.path.lstrip("/").partition("?")[0].rstrip("/")
            keys = [key.removeprefix(f"{bucket}/") for key in sorted(server.objects)]
            found = "".join(
                f"<Contents><Key>{key}</Key><Size>1</Size>"
                "<LastModified>2026-11-23T10:00:00.000Z</LastModified></Contents>"
                for key in keys
                if key.startswith(prefix)
            )
            text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
            self._answer(200, text.encode())

        def _answer(
            self,
            status: int,
            content: bytes,
            *,
            headers: dict[str, str] | None = None,
            length: int | None = None,
            is_cut: bool = False,
        ) -> None:
            server.statuses.append(status)
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            if is_cut:
                self.close_connection = True

    return Handler

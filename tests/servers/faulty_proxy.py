"""A proxy in front of a real server, with the faults of real networks, as told."""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from fakes.object_server import SLOW_DOWN

_OF_ONE_HOP = ("connection", "transfer-encoding", "keep-alive")


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FaultyProxy:
    """Hands requests on as they are, but for those that `faults` has a word for: '' none, a
    status, 'late' (waits `released`), 'reset', 'cut' (half of the body), 'tag' (another ETag)."""

    def __init__(self, endpoint: str) -> None:
        self.faults: deque[str] = deque()
        self.num_requests = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Quiet(("127.0.0.1", 0), _handler(self, endpoint))
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def next_fault(self) -> str:
        with self._lock:
            self.num_requests += 1
            return self.faults.popleft() if self.faults else ""

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(proxy: FaultyProxy, endpoint: str) -> type[BaseHTTPRequestHandler]:
    address = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

        def do_HEAD(self) -> None:
            self._pass()

        def do_GET(self) -> None:
            self._pass()

        def _pass(self) -> None:
            fault = proxy.next_fault()
            if fault == "late":
                proxy.released.wait(60)
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
            elif fault.isdigit():
                self._answer(int(fault), {}, SLOW_DOWN if fault == "503" else b"")
            else:
                self._fetch(fault)

        def _fetch(self, fault: str) -> None:
            upstream = http.client.HTTPConnection(address, timeout=60)
            try:
                # The Host header stays that of the request: it is part of the signature.
                upstream.request(self.command, self.path, headers=dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
            finally:
                upstream.close()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in _OF_ONE_HOP}
            if fault == "tag":
                headers = {k: v for k, v in headers.items() if k.lower() != "etag"}
                headers["ETag"] = '"another"'
            self._answer(answer.status, headers, content, is_cut=fault == "cut")

        def _answer(
            self, status: int, headers: dict[str, str], content: bytes, *, is_cut: bool = False
        ) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "content-length" not in {name.lower() for name in headers}:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            self.close_connection = self.close_connection or is_cut

    return Handler

"""nginx as a server of objects on this machine, for benchmarks and tests.

Invariant: it listens on the loopback alone and ends with the block that started it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SLOW_DOWN = (
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

_CONFIG = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 512; }}
http {{
  sendfile on; tcp_nopush on; keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp;
  fastcgi_temp_path {folder}/tmp; uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
  log_format status '$status'; access_log {log};
  limit_req_zone $binary_remote_addr zone=slow:1m rate={rate}r/s; limit_req_status 503;
  server {{
    listen 127.0.0.1:{port}; root {root}; error_page 503 /slow-down;
    location = /slow-down {{ internal; default_type application/xml; return 503 '{slow_down}'; }}
    location / {{ {limit} }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A static server of the files in `root`; it looks at no signature."""

    url: str
    """Ends with a slash."""
    root: Path
    log: Path

    def count(self, status: int) -> int:
        """How often it answered so, where it is throttled."""
        return self.log.read_text().split().count(str(status))


@contextlib.contextmanager
def nginx(
    folder: Path, *, root: Path | None = None, requests_per_second: int | None = None
) -> Iterator[Nginx]:
    """Serve `root`, by default a new folder in `folder`, which is for the server alone.

    With `requests_per_second` five at once beyond them are served and all others answered with
    503 SlowDown, and every answer is logged.
    """
    root, port = root or folder / "root", free_port()
    root.mkdir(parents=True, exist_ok=True)
    config = _CONFIG.format(
        folder=folder,
        root=root,
        port=port,
        user="user root;" if os.geteuid() == 0 else "",
        log=f"{folder}/access.log status" if requests_per_second else "off",
        rate=requests_per_second or 1,
        limit="limit_req zone=slow burst=5 nodelay;" if requests_per_second else "",
        slow_down=SLOW_DOWN,
    )
    (folder / "nginx.conf").write_text(config)
    command = ("nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"))
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: answers(port), seconds=30)
            yield Nginx(f"http://127.0.0.1:{port}/", root, folder / "access.log")
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_until(is_done: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            raise TimeoutError(f"not done after {seconds} s")
        time.sleep(0.02)

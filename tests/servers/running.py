"""Real servers on this machine's loopback, ended by whoever started them.

nginx and Ceph's radosgw are Debian's (nginx-light; ceph-mon ceph-osd radosgw ceph-common).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fakes.object_server import SLOW_DOWN

SCRIPT = Path(__file__).parent / "radosgw.sh"

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 512; }}
http {{
  sendfile on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp;
  fastcgi_temp_path {folder}/tmp; uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
  log_format status '$status'; access_log {folder}/access.log status;
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
    """A static server of the files in `root`."""

    url: str
    root: Path
    folder: Path

    def count(self, status: int) -> int:
        """How often it answered so."""
        return (self.folder / "access.log").read_text().split().count(str(status))


@contextlib.contextmanager
def nginx(folder: Path, *, requests_per_second: int | None = None) -> Iterator[Nginx]:
    """At most that many requests a second and five at once beyond, others are answered 503."""
    root, port = folder / "root", free_port()
    root.mkdir(parents=True)
    folder.chmod(0o755)
    config = _NGINX.format(
        folder=folder,
        root=root,
        port=port,
        user="user root;" if os.geteuid() == 0 else "",
        rate=requests_per_second or 1,
        limit="limit_req zone=slow burst=5 nodelay;" if requests_per_second else "",
        slow_down=SLOW_DOWN.decode(),
    )
    (folder / "nginx.conf").write_text(config)
    command = ["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: answers(port), seconds=30)
        yield Nginx(f"http://127.0.0.1:{port}/", root, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@dataclass(frozen=True)
class Bucket:
    """One bucket of an S3 server, and how it is reached."""

    url: str
    endpoint: str
    options: dict[str, Any]

    def put(self, key: str, content: bytes) -> str:
        import obstore

        obstore.put(self._store(), key, content)
        return f"{self.url}/{key}"

    def create(self) -> Bucket:
        import obstore

        url = obstore.sign(self._store(), "PUT", "", timedelta(seconds=60))
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"")).close()
        return self

    def _store(self) -> Any:
        from obstore.store import from_url

        return from_url(self.url, client_options={"allow_http": True}, **self.options)


def bucket(endpoint: str, *, key: str = "testkey", secret: str = "testsecret") -> Bucket:
    options = {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": key,
        "secret_access_key": secret,
        "virtual_hosted_style_request": False,
    }
    return Bucket("s3://shards", endpoint, options)


@contextlib.contextmanager
def radosgw() -> Iterator[Bucket]:
    """Ceph with an S3 gateway; takes about 20 s to start, and 500 MB."""
    folder = Path(tempfile.mkdtemp(prefix="radosgw-"))  # short: sockets' paths have a limit
    port = free_port()
    try:
        subprocess.run([SCRIPT, "start", folder, str(port)], check=True, timeout=240)
        yield bucket(f"http://127.0.0.1:{port}").create()
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)
        shutil.rmtree(folder)
        Path(f"{folder}.log").unlink()


@contextlib.contextmanager
def moto() -> Iterator[Bucket]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield bucket(f"http://{host}:{port}").create()
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_until(is_done: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, f"not done after {seconds} s"
        time.sleep(0.02)

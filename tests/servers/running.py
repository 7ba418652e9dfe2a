"""S3 servers on this machine's loopback, ended by whoever started them.

Ceph's radosgw is Debian's: ceph-mon, ceph-osd, radosgw, ceph-common.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from iopipe.bench.nginx import free_port

SCRIPT = Path(__file__).parent / "radosgw.sh"


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

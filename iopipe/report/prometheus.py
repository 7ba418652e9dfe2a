"""Reports for Prometheus: its text format, and an endpoint that serves it.

Stands at the end of `live`, opt-in.  Invariant: nobody but this machine can reach the
endpoint unless its user names another address; a scrape never touches the meter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from iopipe.errors import PipelineError
from iopipe.report.live import Content
from iopipe.report.metrics import Metric, metrics_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEFAULT_PORT = 9464


def exposition(content: Mapping[str, Any]) -> str:
    """A report in the text format.

    Source: Prometheus, Exposition formats, text-based format 0.0.4: backslash, line feed and,
    in labels, quotes are escaped; a line feed ends every line.
    """
    return "".join(line + "\n" for metric in metrics_of(content) for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {_escaped(metric.help)}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in metric.samples:
        pairs = ",".join(f'{name}="{_quoted(text)}"' for name, text in labels.items())
        yield f"{metric.name}{{{pairs}}} {value!r}" if pairs else f"{metric.name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


class PrometheusEndpoint:
    """Serves the report shown last at http://HOST:PORT/metrics, from a thread of its own.

    `port` 0 takes a free one; `port` says which.  `PipelineError` where it cannot be had.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint._answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                """A scrape every few seconds is no news."""

        self._text = ""
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise PipelineError(
                f"no endpoint at {host}:{port}: {error}; give another port, or 0 for a free one"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="iopipe-prometheus", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def show(self, content: Content) -> None:
        self._text = exposition(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        known = request.path.partition("?")[0] == "/metrics"
        body = self._text.encode(errors="replace") if known else b"the metrics are at /metrics\n"
        request.send_response(200 if known else 404)
        request.send_header("Content-Type", CONTENT_TYPE)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

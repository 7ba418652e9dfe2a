"""A worker process of the local engine: `python -m iopipe.jobs.worker DESCRIPTOR`.

Stands at the other end of a pipe from `jobs.local`.  Invariant: it lives no longer than the
pipe, so that no worker outlives its job.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from iopipe.jobs.work import Handler


def main(descriptor: int) -> None:
    """Answer items with ('done', result) or ('failed', error) until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, _leave)
    with Connection(descriptor) as pipe:
        try:
            handler: Handler | None = None
            job = pipe.recv()
            while True:
                item = pipe.recv()
                answer: tuple[str, Any]
                try:
                    handler = handler or Handler(job)
                    answer = ("done", handler(item))
                except Exception as error:
                    answer = ("failed", error)
                pipe.send(answer)
        except (EOFError, BrokenPipeError):
            return


def _leave(number: int, frame: Any) -> None:
    """End by an exception, so that unfinished shards are removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""A worker process of the local engine: `python -m iopipe.jobs.worker DESCRIPTOR`.

Stands at the other end of a pipe from `jobs.local`.  Invariant: it lives no longer than the
pipe, so that no worker outlives its job.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from iopipe.errors import IopipeError, WorkerError
from iopipe.jobs.reading import Job
from iopipe.jobs.work import Handler


def main(descriptor: int) -> None:
    """Answer items with ('done', result) or ('failed', error) until the pipe ends; a job that
    comes instead is what the items after it belong to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, _leave)
    with Connection(descriptor) as pipe, suppress(EOFError, ConnectionError):
        job = pipe.recv()
        handler: Handler | None = None
        while True:
            message = pipe.recv()
            if isinstance(message, Job):
                job, handler = message, None
                continue
            answer: tuple[str, Any]
            try:
                handler = handler or _handler(job)
                answer = ("done", handler(message))
            except Exception as error:
                answer = ("failed", _sendable(error))
            pipe.send(answer)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left that could be unfinished
    _end()


def _sendable(error: Exception) -> Exception:
    """The error, or where it cannot travel one that says what it was; where it was raised is
    noted, since the traceback stays here."""
    if not isinstance(error, IopipeError):
        error.add_note("raised in a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the user's class does when it travels
        told = WorkerError(f"the job's own code failed: {type(error).__name__}: {error}")
        told.__notes__ = getattr(error, "__notes__", [])
        return told
    return error


def _handler(job: Job) -> Handler:
    handler = Handler(job)
    gc.freeze()  # what is there now stays: the collector need not look at it again and again
    return handler


def _end() -> None:
    """End without taking the interpreter apart, for which the job would wait 0.1 s; what the
    user's code has registered to be done is done."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave(number: int, frame: Any) -> None:
    """End by an exception, so that unfinished shards are removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(int(sys.argv[1]))

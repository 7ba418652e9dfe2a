"""The exceptions of iopipe.

    IopipeError
    ├── PipelineError (ValueError)       an illegal graph or option; raised when built
    ├── StateError (ValueError)          a saved state that does not fit this run
    ├── StorageError (OSError)           a store could not do what was asked
    │   └── NotFoundError (FileNotFoundError)
    ├── DataError (ValueError)           bytes that are not what their format promises
    ├── ErrorBudgetExceeded              more damaged samples than `max_errors` allows
    ├── WorkerError                      a worker process that died
    └── MissingDependency (ImportError)  an optional package; the message names the extra

Invariant: every message says what failed, with which value, and what to do.
"""

from __future__ import annotations


class IopipeError(Exception):
    """The root: `except IopipeError` catches all that iopipe raises on purpose."""


class PipelineError(IopipeError, ValueError):
    """An illegal graph or option, found while the pipeline is built."""


class StateError(IopipeError, ValueError):
    """A saved state that belongs to other data, another seed or another version."""


class StorageError(IopipeError, OSError):
    """A store could not serve a request; the message names path, offset and remedy."""


class NotFoundError(StorageError, FileNotFoundError):
    """A path that the store does not have."""


class DataError(IopipeError, ValueError):
    """Bytes that are not what their format promises.

    Whoever raises it fills what it knows; the engine adds the rest while the error
    travels up, so that the message names shard, offset and key.  `row` is the index of
    the sample within the `Samples` that were being worked on.
    """

    def __init__(
        self,
        reason: str,
        *,
        row: int | None = None,
        shard: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        sample_id: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row
        self.shard = shard
        self.offset = offset
        self.key = key
        self.sample_id = sample_id

    def __str__(self) -> str:
        places = [
            f"{name} {value!r}"
            for name, value in (
                ("shard", self.shard),
                ("offset", self.offset),
                ("key", self.key),
                ("sample", self.sample_id),
            )
            if value is not None
        ]
        return f"{', '.join(places)}: {self.reason}" if places else self.reason


class ErrorBudgetExceeded(IopipeError):
    """More damaged samples than the `max_errors` of the policy allows."""


class WorkerError(IopipeError):
    """A worker process died; the message names process, signal and what it worked on."""


class MissingDependency(IopipeError, ImportError):
    """An optional package is not installed; the message names the extra to install."""

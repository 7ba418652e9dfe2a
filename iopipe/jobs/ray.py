"""The Ray engine: the same items as tasks of a Ray cluster.

Stands where `jobs.local` stands.  Invariant: it runs what the local engine runs; all nodes
must see the source and, unless it is a URL, the destination under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from iopipe.errors import MissingDependency, WorkerError
from iopipe.jobs.reading import Job
from iopipe.jobs.work import Handler, Item

_MAX_RETRIES = 3
_ITEMS_A_CPU = 4
"""So many items wait for each CPU, so that no worker waits for the driver."""

_handlers: dict[str, Handler] = {}
"""In a worker process of Ray: the handler of the job that it works on."""


class RayEngine:
    """Connects to the cluster at `address`, or starts a local one of `num_workers` CPUs."""

    def __init__(self, *, address: str | None, num_workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingDependency("engine='ray' needs ray: pip install 'iopipe[ray]'") from error
        self._ray = ray
        self._address = address
        self._num_workers = num_workers
        self._owns_cluster = False

    def run(self, job: Job, items: Iterable[Item]) -> Iterator[Any]:
        """The results as they come.  Ray repeats the task of a worker that died, three times;
        then that is a `WorkerError`."""
        self._connect()
        ray = self._ray
        do = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_do)
        shared = ray.put(job)
        waiting = iter(items)
        num_ahead = _ITEMS_A_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending = [do.remote(shared, item) for item in islice(waiting, num_ahead)]
        try:
            while pending:
                done, pending = ray.wait(pending, num_returns=1)
                pending += [do.remote(shared, item) for item in islice(waiting, 1)]
                yield self._value(done[0])
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _connect(self) -> None:
        """When there is something to do: starting a cluster takes seconds."""
        if self._ray.is_initialized():
            return
        self._owns_cluster = True
        self._ray.init(
            address=self._address,
            num_cpus=self._num_workers if self._address is None else None,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )

    def close(self) -> None:
        """Shut down the cluster that was started here; leave one that was joined."""
        if self._owns_cluster and self._ray.is_initialized():
            self._ray.shutdown()

    def _value(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise WorkerError(f"a task was lost {_MAX_RETRIES + 1} times: {error}") from error


def _do(job: Job, item: Item) -> Any:
    """Runs in a worker process of Ray, which keeps the source open for its next item."""
    key = repr(job)
    if key not in _handlers:
        _handlers.clear()
        _handlers[key] = Handler(job)
    return _handlers[key](item)

"""Workers near the GPU that they feed.

Stands between the topology and those who start workers.  Invariant: what is not known is not
bound, and what the kernel refuses is said by name.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from iopipe.errors import PipelineError, StorageError
from iopipe.order.ranks import detect_local_ranks
from iopipe.topology import (
    Binding,
    MemoryPolicy,
    apply_binding,
    get_policy,
    pci_address,
    plan_binding,
    read_topology,
    set_policy,
)

Numa: TypeAlias = Literal["auto"]

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the thread that starts workers may run, and where its memory comes from."""

    cpus: frozenset[int]
    policy: MemoryPolicy | None
    """None: the kernel does not say."""


def home_of_this_thread() -> Home:
    return Home(cpus=frozenset(os.sched_getaffinity(0)), policy=_policy())


def settle(home: Home) -> None:
    """Bind this process as the one was bound that asked for it: a fork server passes on what
    was so when it was started itself, which may be another binding's time."""
    if os.sched_getaffinity(0) != home.cpus:
        try:
            os.sched_setaffinity(0, home.cpus)
        except OSError as error:
            _log.warning("a worker is not bound as its trainer is: %s", error.strerror)
    if home.policy is not None and home.policy != _policy():
        try:
            set_policy(home.policy)
        except StorageError as error:
            _log.warning("a worker's memory is not bound as its trainer's is: %s", error)


def _policy() -> MemoryPolicy | None:
    try:
        return get_policy()
    except StorageError:
        return None


def binding_for(numa: Numa | None, *, device: str | None, num_workers: int) -> Binding | None:
    """What 'auto' means here: this rank's part of the machine, divided among its workers."""
    if numa is None or num_workers == 0:
        return None
    if numa != "auto":
        raise PipelineError(f"numa is {numa!r}: give 'auto' or None")
    binding = _planned(device, num_workers=num_workers)
    _log.info("workers are bound: %s", "; ".join(binding.reasons))
    return binding


def bind_worker(binding: Binding | None, number: int) -> None:
    """Bind this process to worker `number`'s CPUs, and its memory to their node."""
    if binding is None:
        return
    for problem in apply_binding(binding, worker=_place(binding, number)).problems:
        _log.warning("worker %d is not bound as planned: %s", number, problem)


def _place(binding: Binding, number: int) -> int:
    """Workers that come later than planned, as a tuner adds them, share the places."""
    return number % len(binding.worker_cpus)


def bind_thread(binding: Binding | None, number: int) -> None:
    """The calling thread alone."""
    if binding is None:
        return
    try:
        os.sched_setaffinity(0, binding.worker_cpus[_place(binding, number)])
    except OSError as error:
        _log.warning("worker thread %d is not bound: %s", number, error.strerror)


def memory_node(device: str) -> int | None:
    """Where slots for `device` should lie; None where nothing is gained, which is logged."""
    return _plan(device).memory_node


@contextlib.contextmanager
def threads_near(device: str) -> Iterator[None]:
    """Threads that the calling one starts within have the CPUs of this rank's part of the machine
    and take memory near `device`; the calling thread is as before afterwards."""
    binding = _plan(device)
    mask = os.sched_getaffinity(0)
    problems: list[str] = []
    policy = None
    if binding.memory_node is not None:
        policy = _asked(get_policy, problems)
        near = MemoryPolicy(mode="preferred", nodes=(binding.memory_node,))
        _asked(partial(set_policy, near), problems)
    try:
        os.sched_setaffinity(0, binding.cpus)
    except OSError as error:
        problems.append(f"sched_setaffinity failed: {error.strerror}")
    for problem in problems:
        _log.warning("threads are not bound as planned: %s", problem)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mask)
        if policy is not None:
            _asked(partial(set_policy, policy), problems)


def _plan(device: str) -> Binding:
    binding = _planned(device)
    _log.info("slots and threads are bound: %s", "; ".join(binding.reasons))
    return binding


def _planned(device: str | None, *, num_workers: int = 0) -> Binding:
    """A GPU that neither the bus nor the driver shows here (WSL, some sandboxes) is as good as
    none: its node is not known."""
    topology, address = read_topology(), _gpu_address(device)
    rank, world = detect_local_ranks()
    if address not in {gpu.address for gpu in topology.gpus}:
        if address is not None:
            _log.info("GPU %s is not to be seen in /proc or /sys: nothing is near it", address)
        address = None
    return plan_binding(
        topology, gpu=address, local_rank=rank, local_world=world, num_workers=num_workers
    )


def _asked(question: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return question()
    except StorageError as error:
        problems.append(str(error))
        return None


def _gpu_address(device: str | None) -> str | None:
    if device is None or not device.startswith("cuda"):
        return None
    found: Any = torch.cuda.get_device_properties(torch.device(device))
    return pci_address(found.pci_domain_id, found.pci_bus_id, found.pci_device_id)

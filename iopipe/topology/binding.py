"""Makes a planned binding so, reads it back, and undoes it.

Stands behind `plan`; a run or a worker calls it before it allocates.  Invariant: the report holds
what the kernel answers afterwards, and every refusal by name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from iopipe.errors import StorageError
from iopipe.topology.plan import Binding
from iopipe.topology.policy import MemoryPolicy, Policy, get_policy, set_policy
from iopipe.topology.tree import format_cpus

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What `restore` gives back."""

    masks: dict[int, frozenset[int]]
    """By thread."""
    policy: MemoryPolicy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of a binding, as read back from the kernel."""

    cpus: tuple[int, ...]
    """Where the calling thread may run now."""
    num_threads: int
    """Threads of this process that have exactly these CPUs now."""
    policy: MemoryPolicy | None
    """Of the calling thread; None: the kernel does not say.  Other threads keep theirs, and
    those that this thread starts from now on have it too."""
    problems: tuple[str, ...]
    """What was asked for and is not so, by the name of the error; empty: all of it is so."""
    _before: _Before = field(repr=False)


def apply_binding(
    binding: Binding, *, worker: int | None = None, policy: Policy = "preferred"
) -> Applied:
    """Bind this process: all its threads to the CPUs, the calling thread's memory to the node.

    `worker` takes that worker's CPUs instead of the whole rank's.  `policy` is how memory is
    bound where `binding` says so: 'preferred' takes other nodes' memory when this one's is used
    up, 'bind' ends the process then.  A refusal is in the report's `problems`, not raised.
    """
    wanted = binding.cpus if worker is None else binding.worker_cpus[worker]
    problems: list[str] = []
    before = _Before(masks=_masks(), policy=_answer(get_policy, problems))
    for thread in before.masks:
        _set_mask(thread, frozenset(wanted), problems)
    if binding.memory_node is not None:
        _answer(_setter(MemoryPolicy(mode=policy, nodes=(binding.memory_node,))), problems)
    cpus = frozenset(os.sched_getaffinity(0))
    if cpus != frozenset(wanted) and not problems:
        problems.append(
            f"asked for CPUs {format_cpus(wanted)}, the kernel gave "
            f"{format_cpus(tuple(cpus))}: the cpuset was made smaller"
        )
    return Applied(
        cpus=tuple(sorted(cpus)),
        num_threads=sum(mask == frozenset(wanted) for mask in _masks().values()),
        policy=_answer(get_policy, problems),
        problems=tuple(dict.fromkeys(problems)),
        _before=before,
    )


def restore(applied: Applied) -> tuple[str, ...]:
    """Give back masks and policy; the problems met.  Call it from the thread that applied it.

    Threads that were started in between take the mask that the calling thread gets back.
    """
    problems: list[str] = []
    before = applied._before
    own = before.masks[_this_thread()]
    for thread in _threads():
        _set_mask(thread, before.masks.get(thread, own), problems)
    if before.policy is not None:
        _answer(_setter(before.policy), problems)
    return tuple(problems)


@contextlib.contextmanager
def bound(
    binding: Binding, *, worker: int | None = None, policy: Policy = "preferred"
) -> Iterator[Applied]:
    """`apply_binding` for as long as a `with` block; `StorageError` where it cannot be undone."""
    applied = apply_binding(binding, worker=worker, policy=policy)
    try:
        yield applied
    finally:
        problems = restore(applied)
        if problems:
            raise StorageError(f"cannot undo a binding: {'; '.join(problems)}")


def _setter(policy: MemoryPolicy) -> Callable[[], None]:
    return lambda: set_policy(policy)


def _answer(question: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return question()
    except StorageError as error:
        problems.append(str(error))
        return None


def _masks() -> dict[int, frozenset[int]]:
    found = {}
    for thread in _threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            found[thread] = frozenset(os.sched_getaffinity(thread))
    return found


def _set_mask(thread: int, cpus: frozenset[int], problems: list[str]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        return  # it has ended since
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        problems.append(
            f"sched_setaffinity to CPUs {format_cpus(tuple(cpus))} failed with {name} "
            f"({(error.strerror or '').lower()}): a cpuset or a seccomp profile forbids it"
        )


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _this_thread() -> int:
    return threading.get_native_id()

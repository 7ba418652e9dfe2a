"""What a run may take of the machine.

Stands beside the policy, which asks before every move.  Invariant: the limits are those that the
system enforces (affinity, quotas and memory limits of control groups), shared evenly among the
ranks of this machine; a move past one of them is never made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from iopipe.autotune.measurement import Measurement
from iopipe.autotune.setting import Knob, Values
from iopipe.meter.cores import usable_cores
from iopipe.order.ranks import detect_local_ranks
from iopipe.topology.cgroups import memory_left, quota_cpus
from iopipe.topology.tree import Tree

_SHARE_OF_MEMORY = 0.5
_SATURATED = 0.97
_MOSTLY_ON_CORE = 0.5
_LEAST_ON_CORE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits; a resource that is not named has none."""

    cores: float
    resources: Mapping[str, int] = field(default_factory=dict)
    """Name -> bytes.  'memory' is what buffers may hold, 'locked memory' the part of it that
    may be page-locked, which the kernel cannot take back.  What worker processes write into are
    memfds: they count as memory, and not against the size of /dev/shm."""

    def refusal(
        self,
        knobs: Mapping[str, Knob],
        new: Values,
        now: Values,
        *,
        measured: Measurement,
        needed: Mapping[str, int],
    ) -> str:
        """Why `new` must not be set in place of `now`; empty where it may be.  `needed`: bytes of
        each resource that `new` takes."""
        for name, value in new.items():
            knob = knobs[name]
            if not min(knob.least, now[name]) <= value <= max(knob.most, now[name]):
                return f"{name} ends at {knob.least} and {knob.most}"
            if value > now[name] and knob.kind in ("threads", "processes"):
                if said := self._core_refusal(name, value, measured):
                    return said
        grows = any(value > now[name] for name, value in new.items())
        for resource, num_bytes in needed.items():
            limit = self.resources.get(resource)
            if grows and limit is not None and num_bytes > limit:
                return f"{num_bytes >> 20} MiB of {resource}, {limit >> 20} MiB may be used"
        return ""

    def _core_refusal(self, name: str, value: int, measured: Measurement) -> str:
        on_core = min(1.0, max(_LEAST_ON_CORE, measured.on_core.get(name, 1.0)))
        if value * on_core > math.ceil(self.cores):
            return f"{value} times {on_core:.2f} of a core, {self.cores:g} cores may be used"
        if measured.cores >= _SATURATED * self.cores and on_core > _MOSTLY_ON_CORE:
            return f"all of the {self.cores:g} cores that may be used are busy"
        return ""


def system_budget(*, share: float = _SHARE_OF_MEMORY, root: Path = Path("/")) -> Budget:
    """What this rank may take: its part of the usable cores, and `share` of its part of the
    memory that is free now."""
    ranks = max(1, detect_local_ranks()[1])
    tree = Tree(root)
    cores = min(usable_cores(), quota_cpus(tree) or math.inf)
    free = free_memory(tree)
    memory = {} if free is None else {"memory": int(free * share) // ranks}
    locked = {"locked memory": memory["memory"] // 2} if memory else {}
    return Budget(cores=cores / ranks, resources={**memory, **locked})


def free_memory(tree: Tree) -> int | None:
    """Bytes that could be taken now, clean pages of files included; None where nothing says."""
    found = [one for one in (_available(tree), memory_left(tree)) if one is not None]
    return max(0, min(found)) if found else None


def _available(tree: Tree) -> int | None:
    return _kilobytes(tree, "proc/meminfo", "MemAvailable:")


def _kilobytes(tree: Tree, file: str, name: str) -> int | None:
    for line in (tree.text(file) or "").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return None

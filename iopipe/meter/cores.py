"""How many cores this process may use.

Stands beside the replay, which must not promise more.  Invariant: never more than the system
will give: the affinity of the process, and the quota of its control group.
"""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def usable_cores(groups: Path = _GROUPS, membership: Path = Path("/proc/self/cgroup")) -> float:
    """Cores, fractions of one included; quotas are those of cgroup v2 (`cpu.max`)."""
    cores = float(len(os.sched_getaffinity(0)))
    return min([cores, *_quotas(groups, membership)])


def _quotas(groups: Path, membership: Path) -> list[float]:
    """Of the group and all above it, where they have one."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no such system
        return []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    folders = [groups / own, *(groups / own).parents]
    found = []
    for folder in folders:
        if folder != groups and groups not in folder.parents:
            break
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except OSError:  # the root has none
            continue
        if quota != "max":
            found.append(int(quota) / int(period))
    return found

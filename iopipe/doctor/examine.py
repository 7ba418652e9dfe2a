"""Asks every topic and puts the findings together.

Stands on top of the topics; the command and training scripts call it.  Invariant: read-only, and
the order of the findings is always the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from iopipe.doctor import gpu, host, limits, nvml, process, storage
from iopipe.doctor.finding import Check, Finding, Patient
from iopipe.errors import NotFoundError
from iopipe.topology.read import read_topology
from iopipe.topology.tree import Tree

CHECKS: tuple[Check, ...] = (
    *host.CHECKS,
    *limits.CHECKS,
    *storage.CHECKS,
    *gpu.CHECKS,
    *nvml.CHECKS,
    *process.CHECKS,
)


def examine(
    path: str = ".", *, root: Path = Path("/"), environment: Mapping[str, str] | None = None
) -> list[Finding]:
    """Look at host, container, storage below `path` (a file or folder of the data), GPUs and this
    process.  Nothing is changed; where there is a GPU, kvikio reads a file in a process of its
    own, which blocks for a second or two.

    `root` stands for / in tests, `environment` for `os.environ`.  `NotFoundError` where there is
    nothing at `path`.
    """
    if not Path(path).exists():
        raise NotFoundError(f"there is nothing at {path!r}: give a file or folder of the data")
    patient = Patient(
        tree=Tree(root),
        topology=read_topology(root=root),
        path=path,
        environment=os.environ if environment is None else environment,
    )
    found: list[Finding] = []
    for check in CHECKS:
        answer = check(patient)
        found.extend([answer] if isinstance(answer, Finding) else answer)
    return found

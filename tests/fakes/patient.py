"""A patient of the doctor's made of files, and the table that its tests are written in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.tree import FakeMachine

from iopipe.doctor.finding import Check, Finding, Patient, Verdict
from iopipe.topology import read_topology
from iopipe.topology.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Case:
    """`check` on a machine with `files`, and what it must say."""

    check: Check
    verdict: Verdict
    says: str
    """A part of what was observed."""
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    has_nodes: bool = False
    """Two nodes of eight CPUs with a GPU each; else four CPUs on one node, and no GPU."""
    path: str = "/nowhere"


def cases(*given: Case) -> pytest.MarkDecorator:
    names = [f"{one.check.__name__}-{one.verdict}-{one.says[:20]}" for one in given]
    return pytest.mark.parametrize("case", given, ids=names)


def ask(case: Case, root: Path) -> Finding:
    machine = FakeMachine(root)
    if case.has_nodes:
        machine.two_nodes()
    else:
        machine.nodes({0: "0-3"}, online_cpus="0-3")
    machine.write(dict(case.files))
    return ask_all(machine, case.check, path=case.path, environment=case.environment)[0]


def ask_all(
    machine: FakeMachine,
    check: Check,
    *,
    path: str = "/nowhere",
    environment: dict[str, str] | None = None,
) -> list[Finding]:
    patient = Patient(
        tree=Tree(machine.root),
        topology=read_topology(root=machine.root),
        path=path,
        environment=environment or {},
    )
    answer = check(patient)
    return [answer] if isinstance(answer, Finding) else answer


def assert_says(case: Case, root: Path) -> None:
    found = ask(case, root)
    assert (found.verdict, case.says in found.observed) == (case.verdict, True), found
    assert found.why and found.threshold and "." in found.name

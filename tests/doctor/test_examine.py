"""All checks together, and the two commands, on this machine and on ones made of files."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tree import FakeMachine
from rich.console import Console

import iopipe
from iopipe import cli
from iopipe.doctor import examine, show
from iopipe.doctor.finding import Finding, Verdict
from iopipe.report.topology import plans_of, print_topology
from iopipe.topology import read_topology

_FIELDS = {"name", "observed", "threshold", "verdict", "why", "who", "command"}
_SICK: dict[str, str | bytes] = {
    "proc/self/limits": "Max open files            64                   64         files\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
}


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    machine = FakeMachine(tmp_path / "root")
    machine.two_nodes()
    return machine


def test_an_empty_machine_fails_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    found = examine(str(tmp_path), root=tmp_path, environment={})
    assert {one.verdict for one in found} <= {"ok", "unknown", "warn"}
    assert len({one.name for one in found}) >= 50


def test_findings_are_complete_and_frozen(machine: FakeMachine, tmp_path: Path) -> None:
    found = examine(str(tmp_path), root=machine.root, environment={})
    for one in found:
        assert set(one.as_json()) == _FIELDS
        assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", one.name)
        assert one.observed and one.threshold and one.why
        assert one.who in {"user", "admin", "cloud"}
        assert not one.why.endswith(".")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].verdict = "fail"  # type: ignore[misc]


def test_every_rule_has_its_line_in_the_readme(machine: FakeMachine, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "iopipe" / "doctor" / "README.md").read_text()
    names = {one.name for one in examine(str(tmp_path), root=machine.root, environment={})}
    assert names == set(re.findall(r"^\| `([a-z]+\.[a-z0-9_]+)`", readme, re.MULTILINE))


def test_what_is_sick_is_found(machine: FakeMachine, tmp_path: Path) -> None:
    machine.write(_SICK)
    found = {
        one.name: one.verdict for one in examine(str(tmp_path), root=machine.root, environment={})
    }
    assert found["limits.open_files"] == "fail"
    assert found["host.huge_pages"] == "warn"
    assert found["host.governor"] == "unknown"


def test_nothing_at_the_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(iopipe.NotFoundError, match="there is nothing at"):
        examine(str(tmp_path / "gone"))


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.tar").write_bytes(bytes(4096))
    code = cli.main(["doctor", str(tmp_path), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1
    assert all(set(one) == _FIELDS for one in said["findings"])
    assert code == int(any(one["verdict"] == "fail" for one in said["findings"]))


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warn", 0), ("unknown", 0), ("fail", 1)])
def test_only_what_fails_is_an_exit_code(
    verdict: Verdict,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = Finding(
        name="host.thing",
        observed="[red]7[/red]",
        threshold="8",
        verdict=verdict,
        why="it matters",
        who="admin",
        command="fix [it]",
    )
    monkeypatch.setattr(sys.modules["iopipe.doctor.examine"], "examine", lambda path: [one])
    assert cli.main(["doctor"]) == code
    said = capsys.readouterr().out
    assert "[red]7[/red]" in said  # text of the machine's is no markup
    assert ("it matters" in said) == ("fix [it]" in said) == (verdict in {"warn", "fail"})
    assert f"1 {verdict}" in said


def test_the_doctor_neither_starts_cuda_nor_changes_the_process() -> None:
    code = (
        "import os, sys, threading\n"
        "from iopipe.doctor import examine\n"
        "before = os.sched_getaffinity(0)\n"
        "examine('/proc/self/status')\n"
        "import torch\n"
        "print(torch.cuda.is_initialized(), os.sched_getaffinity(0) == before,\n"
        "      threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "1"]


def test_reading_the_topology_imports_no_torch() -> None:
    code = (
        "import sys; from iopipe.topology import plan_binding, read_topology; "
        "plan_binding(read_topology(), gpu=None); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_topology_of_two_nodes_in_words(machine: FakeMachine) -> None:
    topology = read_topology(root=machine.root)
    console = Console(width=120, highlight=False, record=True, quiet=False, file=None)
    with console.capture() as captured:
        print_topology(topology, plans_of(topology, num_workers=2), console=console)
    said = captured.get()
    assert re.search(r"0 +│ 0-3,8-11 +│ .* │ 10 +│ 21", said)
    assert re.search(r"gpu 1 +│ 1 +│ 0000:af:00.0", said)
    assert re.search(r"1 +│ 1 +│ node 1 +│ 4-7,12-15 +│ 5,7,13,15 \| 6,14", said)
    assert "rank 1: GPU 0000:af:00.0 is on node 1" in said


def test_the_topology_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["topology", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1
    assert len(said["plans"]) == max(1, len(said["gpus"]))
    assert cli.main(["topology", "--workers", "0"]) == 0
    assert "this process may use CPUs" in capsys.readouterr().out
    assert cli.main(["topology", "--workers", "-1"]) == 1
    assert "num_workers is -1" in capsys.readouterr().err


def test_verdicts_are_shown_worst_first(capsys: pytest.CaptureFixture[str]) -> None:
    def finding(verdict: Verdict) -> Finding:
        return Finding(
            name=f"host.{verdict}",
            observed="seen",
            threshold="wanted",
            verdict=verdict,
            why="so",
            who="user",
            command="",
        )

    show.print_findings([finding(one) for one in ("ok", "unknown", "warn", "fail")])
    said = capsys.readouterr().out
    assert said.index("host.fail") < said.index("host.warn") < said.index("host.ok")
    assert "unknown: host.unknown: seen" in said
    assert "1 fail, 1 warn, 1 ok, 1 unknown" in said

"""Slots, threads and workers near their GPU, on machines made of files."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tree import FakeMachine

import iopipe
from iopipe.errors import PipelineError
from iopipe.loaders.workers import nearby
from iopipe.topology import get_policy, read_topology

GPUS = ("0000:3b:00.0", "0000:af:00.0")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """Its two nodes have one of this machine's CPUs each; the GPU in use is on node 1."""
    made = FakeMachine(tmp_path / "machine")
    made.nodes({0: "0", 1: "1"}, online_cpus="0-1")
    made.gpu(GPUS[0], node=0)
    made.gpu(GPUS[1], node=1)
    monkeypatch.setattr(nearby, "read_topology", lambda: read_topology(root=made.root))
    monkeypatch.setattr(nearby, "_gpu_address", lambda device: GPUS[1])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return made


def _cpus_of_a_new_thread() -> set[int]:
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    return found[0]


def test_slots_lie_on_the_node_of_the_gpu(machine: FakeMachine) -> None:
    assert nearby.memory_node("cuda") == 1


@pytest.mark.parametrize("node", [-1, 7])
def test_an_unknown_node_is_not_bound_to_and_said(
    machine: FakeMachine, caplog: pytest.LogCaptureFixture, node: int
) -> None:
    machine.write({f"sys/devices/pci0000:00/{GPUS[1]}/numa_node": f"{node}\n"})
    with caplog.at_level(logging.INFO):
        assert nearby.memory_node("cuda") is None
    assert "do not bind memory" in caplog.text


def test_a_gpu_that_is_not_to_be_seen_is_not_bound_to_and_said(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nearby, "_gpu_address", lambda device: "0000:01:00.0")
    with caplog.at_level(logging.INFO):
        assert nearby.memory_node("cuda") is None
        binding = nearby.binding_for("auto", device="cuda", num_workers=1)
    assert binding is not None and binding.node is None and binding.cpus == (0, 1)
    assert "GPU 0000:01:00.0 is not to be seen" in caplog.text


def test_a_single_node_is_not_bound_to_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = FakeMachine(tmp_path)
    made.nodes({0: "0-1"}, online_cpus="0-1")
    made.gpu(GPUS[0], node=0)
    monkeypatch.setattr(nearby, "read_topology", lambda: read_topology(root=made.root))
    monkeypatch.setattr(nearby, "_gpu_address", lambda device: GPUS[0])
    with caplog.at_level(logging.INFO):
        assert nearby.memory_node("cuda") is None
    assert "a single node: nothing to bind memory to" in caplog.text


def test_new_threads_are_near_and_the_caller_is_as_before(machine: FakeMachine) -> None:
    before = os.sched_getaffinity(0), get_policy()
    with nearby.threads_near("cuda"):
        assert _cpus_of_a_new_thread() == {1}
    assert (os.sched_getaffinity(0), get_policy()) == before
    assert _cpus_of_a_new_thread() == before[0]


def test_ranks_of_one_node_share_its_cpus_out(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.nodes({0: "0-3", 1: "4-7"}, online_cpus="0-7")
    seen: list[set[int]] = []
    for rank in (0, 1):
        monkeypatch.setattr(nearby, "detect_local_ranks", lambda rank=rank: (rank, 2))
        binding = nearby.binding_for("auto", device="cuda", num_workers=1)
        assert binding is not None and binding.memory_node == 1
        seen.append(set(binding.cpus))
    assert seen == [{4, 5}, {6, 7}]


def test_workers_that_come_later_share_the_places_of_those_before(machine: FakeMachine) -> None:
    """As a tuner adds them: there is a place for each that was planned."""
    binding = nearby.binding_for("auto", device="cuda", num_workers=1)
    found: list[set[int]] = []

    def bound(number: int) -> None:
        nearby.bind_thread(binding, number)
        found.append(os.sched_getaffinity(0))

    for number in (0, 1, 7):
        thread = threading.Thread(target=bound, args=(number,))
        thread.start()
        thread.join()
    assert found == [{1}] * 3


def _with_its_cpus(sample: dict[str, Any]) -> dict[str, Any]:
    return {"cpus": np.array(sorted(os.sched_getaffinity(0))[:1]), "pid": os.getpid()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_that_works_on_samples_of_a_run_is_near(
    machine: FakeMachine, tmp_path: Path, num_workers: int
) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "t.bin")
    pipeline = iopipe.read(tmp_path / "t.bin", window=5).map(_with_its_cpus).batch(4)
    before = os.sched_getaffinity(0)
    with pipeline.workers(num_workers).to("cpu", numa="auto").run() as run:
        batches = list(run)
    assert {int(cpu) for batch in batches for cpu in batch["cpus"].flatten()} == {1}
    assert (os.getpid() in batches[0]["pid"]) == (num_workers == 0)
    assert os.sched_getaffinity(0) == before


def test_numa_is_auto_or_nothing(tmp_path: Path) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "t.bin")
    pipeline = iopipe.read(tmp_path / "t.bin", window=5).batch(4)
    with pytest.raises(PipelineError, match="give 'slots', 'direct' or 'auto', and 'auto' or None"):
        pipeline.to("cpu", numa="node 1")  # type: ignore[arg-type]

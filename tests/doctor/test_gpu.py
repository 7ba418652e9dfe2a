"""The GPUs: every verdict, on buses made of files and an NVML made of numbers."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from fakes.nvml import FakeNvml
from fakes.patient import ask_all
from fakes.tree import FakeMachine

from iopipe.doctor import gpu, nvml
from iopipe.doctor.finding import Check, Finding, Patient
from iopipe.storage.gds_probe import GdsPath, Kind
from iopipe.topology import read_topology
from iopipe.topology.tree import Tree

_GPU = "sys/bus/pci/devices/0000:3b:00.0"
_DRIVER = "proc/driver/nvidia"
_VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26\nGCC version:"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """Two nodes; one GPU, on node 0."""
    machine = FakeMachine(tmp_path / "root")
    machine.nodes({0: "0-3", 1: "4-7"}, online_cpus="0-7")
    machine.gpu("0000:3b:00.0", node=0)
    return machine


def _resource(end: int) -> str:
    return f"0x{0x9000:016x} 0x{0x9FFF:016x} 0x0\n0x{0:016x} 0x{end:016x} 0x14220c\n"


def _link(width: str, speed: str) -> dict[str, str]:
    return {
        f"{_GPU}/current_link_width": width,
        f"{_GPU}/max_link_width": "16",
        f"{_GPU}/current_link_speed": speed,
        f"{_GPU}/max_link_speed": "32.0 GT/s PCIe",
    }


@pytest.mark.parametrize(
    ("check", "files", "verdict", "says"),
    [
        (gpu.driver, {}, "fail", "1 GPUs and no driver"),
        (gpu.driver, {f"{_DRIVER}/version": _VERSION}, "ok", "570.124.06"),
        (gpu.node, {}, "ok", "node 0"),
        (gpu.node, {f"{_GPU}/numa_node": "-1\n"}, "warn", "not known (-1)"),
        (gpu.link, {}, "unknown", "no link shown"),
        (gpu.link, _link("16", "32.0 GT/s PCIe"), "ok", "x16 of x16"),
        (gpu.link, _link("8", "32.0 GT/s PCIe"), "warn", "x8 of x16"),
        (gpu.link, _link("16", "2.5 GT/s PCIe"), "unknown", "idle, ask again under load"),
        (gpu.bar1, {}, "unknown", "no resources shown"),
        (gpu.bar1, {f"{_GPU}/resource": _resource((256 << 20) - 1)}, "warn", "0.25 GiB"),
        (gpu.bar1, {f"{_GPU}/resource": _resource((128 << 30) - 1)}, "ok", "128 GiB"),
        (gpu.iommu, {}, "ok", "in no group"),
        (gpu.iommu, {f"{_GPU}/iommu_group/type": "identity\n"}, "ok", "identity"),
        (gpu.iommu, {f"{_GPU}/iommu_group/type": "DMA-FQ\n"}, "warn", "DMA-FQ"),
        (gpu.iommu, {f"{_GPU}/iommu_group/reserved_regions": ""}, "unknown", "does not say"),
        (gpu.counters, {}, "unknown", "no RmProfilingAdminOnly"),
        (gpu.counters, {f"{_DRIVER}/params": "RmProfilingAdminOnly: 0\n"}, "ok", "open"),
        (gpu.counters, {f"{_DRIVER}/params": "A: 1\nRmProfilingAdminOnly: 1\n"}, "warn", "root"),
    ],
)
def test_what_files_say(
    machine: FakeMachine, check: Check, files: dict[str, str | bytes], verdict: str, says: str
) -> None:
    machine.write(files)
    (found,) = ask_all(machine, check)
    assert (found.verdict, says in found.observed) == (verdict, True), found


@pytest.mark.parametrize("check", gpu.CHECKS)
def test_without_a_gpu_nothing_is_known_and_nothing_fails(check: Check, tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.nodes({0: "0-3"}, online_cpus="0-3")
    assert {found.verdict for found in ask_all(machine, check)} == {"unknown"}


def test_a_single_node_needs_no_place(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.nodes({0: "0-3"}, online_cpus="0-3")
    machine.gpu("0000:3b:00.0", node=-1)
    (found,) = ask_all(machine, gpu.node)
    assert (found.verdict, found.observed) == ("ok", "a single node")


@pytest.mark.parametrize(
    ("value", "verdict"), [(None, "ok"), ("0,1", "ok"), ("", "fail"), ("-1", "fail")]
)
def test_hidden_gpus_fail(machine: FakeMachine, value: str | None, verdict: str) -> None:
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    (found,) = ask_all(machine, gpu.visible, environment=environment)
    assert found.verdict == verdict


# ---- bridges -------------------------------------------------------------------------


def _config(control: int | None) -> bytes:
    """4 KiB of configuration: AER at 0x100 leads to ACS at 0x148, if there is one."""
    config = bytearray(4096)
    following = 0 if control is None else 0x148
    struct.pack_into("<I", config, 0x100, following << 20 | 2 << 16 | 0x0001)
    if control is not None:
        struct.pack_into("<IHH", config, 0x148, 1 << 16 | 0x000D, 0x1F, control)
    return bytes(config)


@pytest.mark.parametrize(
    ("config", "verdict", "says"),
    [
        (_config(None), "ok", "none"),
        (_config(0), "ok", "none"),
        (_config(0x01), "ok", "none"),  # source validation alone redirects nothing
        (_config(0x1D), "warn", "0000:3a:00.0 redirect"),
        (_config(0x1D)[:64], "unknown", "only root"),
        (b"\xff" * 4096, "ok", "none"),  # a device that does not answer reads as ones
    ],
)
def test_bridges_that_redirect(tmp_path: Path, config: bytes, verdict: str, says: str) -> None:
    machine = FakeMachine(tmp_path)
    machine.nodes({0: "0-3"}, online_cpus="0-3")
    bridge = "sys/devices/pci0000:00/0000:3a:00.0"
    machine.link("sys/bus/pci/devices/0000:3a:00.0", bridge)
    machine.link("sys/bus/pci/devices/0000:3b:00.0", f"{bridge}/0000:3b:00.0")
    machine.write({f"{bridge}/config": config, f"{_DRIVER}/gpus/0000:3b:00.0/information": ""})
    (found,) = ask_all(machine, gpu.acs)
    assert (found.verdict, says in found.observed) == (verdict, True), found
    assert ("0000:3a:00.0" in found.command) == (verdict == "warn")


# ---- GPUDirect -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verdict"), [("gpudirect", "ok"), ("compat", "warn"), ("unavailable", "unknown")]
)
def test_gpudirect_is_what_the_probe_says_of_a_file_of_the_data(
    machine: FakeMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    verdict: str,
) -> None:
    asked = []

    def probe(path: str, *, root: Path) -> GdsPath:
        asked.append(path)
        return GdsPath(kind, "so says the test")

    monkeypatch.setattr(gpu, "probe", probe)
    (found,) = ask_all(machine, gpu.gpudirect, path=str(tmp_path / "none"))
    assert (found.verdict, asked) == ("unknown", [])
    file = tmp_path / "data" / "deep" / "0.tar"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    (found,) = ask_all(machine, gpu.gpudirect, path=str(tmp_path / "data"))
    assert (found.verdict, asked) == (verdict, [str(file)])
    assert "so says the test" in found.observed


# ---- NVML ----------------------------------------------------------------------------


def _states(
    fake: FakeNvml, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, str], Finding]:
    """By name and address."""
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    patient = Patient(tree=Tree(), topology=read_topology(root=machine.root), path="/")
    found = nvml.state(patient)
    assert isinstance(found, list)
    assert fake.num_open == 0
    return {(one.name, one.observed.partition(": ")[0]): one for one in found}


def test_a_gpu_in_good_health(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _states(FakeNvml(), machine, monkeypatch)
    assert {address for _, address in found} == {"0000:3b:00.0", "0000:af:00.0"}
    assert {one.verdict for one in found.values()} == {"ok"}
    assert len(found) == 2 * 8


@pytest.mark.parametrize(
    ("answers", "name", "verdict", "says"),
    [
        ({"PersistenceMode": 0}, "gpu.persistence", "warn", "off"),
        ({"PersistenceMode": None}, "gpu.persistence", "unknown", "not supported"),
        ({"ApplicationsClock": 1200}, "gpu.clocks", "warn", "1200 of 1980 MHz"),
        ({"ApplicationsClock": None}, "gpu.clocks", "unknown", "not supported"),
        ({"CurrentClocksThrottleReasons": 0x04}, "gpu.throttle", "warn", "power cap"),
        ({"CurrentClocksThrottleReasons": 0x48}, "gpu.throttle", "fail", "hardware thermal"),
        ({"CurrentClocksThrottleReasons": None}, "gpu.throttle", "unknown", "not supported"),
        ({"Temperature": 84}, "gpu.temperature", "ok", "84"),
        ({"Temperature": 85}, "gpu.temperature", "warn", "85"),
        ({"Temperature": None}, "gpu.temperature", "unknown", "not supported"),
        ({"EccMode": [0, 1]}, "gpu.ecc", "warn", "off"),
        ({"EccMode": None}, "gpu.ecc", "unknown", "not supported"),
        ({"TotalEccErrors": 2}, "gpu.ecc", "fail", "2 uncorrected"),
        ({"TotalEccErrors": None}, "gpu.ecc", "unknown", "not counted"),
        ({"PcieReplayCounter": 7}, "gpu.pcie_replays", "warn", "7"),
        ({"PcieReplayCounter": None}, "gpu.pcie_replays", "unknown", "not supported"),
        ({"MigMode": [1, 1]}, "gpu.mig", "warn", "on"),
        ({"MigMode": None}, "gpu.mig", "unknown", "not supported"),
        ({"ComputeRunningProcesses": [object()]}, "gpu.other_processes", "warn", "1"),
        ({"ComputeRunningProcesses": None}, "gpu.other_processes", "unknown", "not supported"),
    ],
)
def test_what_nvml_says(
    machine: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, object],
    name: str,
    verdict: str,
    says: str,
) -> None:
    found = _states(FakeNvml(**answers), machine, monkeypatch)
    one = found.pop((name, "0000:3b:00.0"))
    assert (one.verdict, says in one.observed) == (verdict, True), one
    assert {other.verdict for (other_name, _), other in found.items() if other_name != name} == {
        "ok"
    }


def test_an_nvml_that_does_not_start_is_unknown(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNvml()

    def fail() -> None:
        raise fake.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(fake, "nvmlInit", fail)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml.read_states() == "NVML does not start: Driver Not Loaded"


def test_without_the_package_only_the_daemon_s_socket_speaks(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    patient = Patient(tree=Tree(), topology=read_topology(root=machine.root), path="/")
    found = nvml.state(patient)
    assert isinstance(found, list)
    assert {one.verdict for one in found[1:]} == {"unknown"}
    assert "pip install nvidia-ml-py" in found[1].observed
    machine.write({"run/nvidia-persistenced/socket": ""})
    here = Patient(tree=Tree(machine.root), topology=patient.topology, path="/")
    assert nvml.persistence_by_socket(here, found[1]).verdict == "ok"


def test_another_machine_s_files_are_not_mixed_with_this_one_s_nvml(machine: FakeMachine) -> None:
    assert {one.verdict for one in ask_all(machine, nvml.state)} == {"unknown"}

"""What the driver says about each GPU's state, through NVML.

Stands beside the other topics of `doctor.examine`.  Invariant: NVML is opened and closed here, and
CUDA is not: no context is made on any GPU.

Names and bits: NVIDIA's NVML API reference (Device Queries, Clocks Event Reasons).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from iopipe.doctor.finding import Check, Finding, Patient, Rule
from iopipe.topology.machine import pci_address

_T = TypeVar("_T")

_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_POWER_CAP = 0x04
_HOT_CELSIUS = 85

_PERSISTENCE = Rule(
    name="gpu.persistence",
    threshold="nvidia-persistenced runs, or persistence mode is on",
    why="else the driver lets go of an idle GPU, and the next start waits a second or two for it",
    who="admin",
    command="systemctl enable --now nvidia-persistenced",
)
_THROTTLE = Rule(
    name="gpu.throttle",
    threshold="no slowdown; a power cap is a warning",
    why="a GPU with lowered clocks waits less for its input, and measures wrong",
    who="admin",
    command="nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER; look after cooling and power",
)
_HEAT = Rule(
    name="gpu.temperature",
    threshold=f"under {_HOT_CELSIUS} C",
    why="clocks fall soon above",
    who="admin",
    command="nvidia-smi -q -d TEMPERATURE; look after the cooling",
)
_ECC = Rule(
    name="gpu.ecc",
    threshold="on, and no uncorrected error since the driver was loaded",
    why="an uncorrected error is a wrong number in some batch or weight",
    who="admin",
    command="nvidia-smi -q -d ECC,ROW_REMAPPER; reset or replace the GPU",
)
_REPLAY = Rule(
    name="gpu.pcie_replays",
    threshold="none",
    why="packets that had to be sent again: a bad contact halves the bandwidth in silence",
    who="admin",
    command="nvidia-smi -q -d PERFORMANCE; reseat the card or its riser",
)
_MIG = Rule(
    name="gpu.mig",
    threshold="off",
    why="a slice has fewer copy engines: less of the copying hides behind the computing",
    who="admin",
    command="nvidia-smi -i GPU -mig 0",
)
_TENANTS = Rule(
    name="gpu.other_processes",
    threshold="none",
    why="their kernels are in the way of yours, and starvation cannot be told from it",
    who="user",
    command="nvidia-smi --query-compute-apps=pid,name --format=csv",
)
_CLOCKS = Rule(
    name="gpu.clocks",
    threshold="the clocks of applications are the highest there are",
    why="a GPU whose clocks were set lower computes slower than it could",
    who="admin",
    command="nvidia-smi -rac; nvidia-smi -rgc",
)
_RULES = (_PERSISTENCE, _CLOCKS, _THROTTLE, _HEAT, _ECC, _REPLAY, _MIG, _TENANTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """What NVML answered; None: this GPU or driver does not say."""

    address: str
    is_persistent: bool | None
    application_mhz: int | None
    max_mhz: int | None
    reasons: int | None
    """Bits of what lowers the clocks now."""
    celsius: int | None
    has_ecc: bool | None
    uncorrected: int | None
    replays: int | None
    is_sliced: bool | None
    num_processes: int | None


def state(here: Patient) -> list[Finding]:
    """All findings of all GPUs; one `unknown` a rule where NVML cannot be asked."""
    if not here.tree.is_real:
        return [rule.unknown("not this machine") for rule in _RULES]
    states = read_states() if here.topology.gpus else "no NVIDIA GPU is shown to this process"
    if isinstance(states, str):
        found = [rule.unknown(states) for rule in _RULES]
        return [persistence_by_socket(here, found[0]), *found[1:]]
    return [finding for one in states for finding in judge(one)]


def persistence_by_socket(here: Patient, otherwise: Finding) -> Finding:
    """The daemon's socket answers without NVML, where it is shown."""
    socket = "run/nvidia-persistenced/socket"
    return _PERSISTENCE.ok(f"/{socket}") if here.tree.at(socket).exists() else otherwise


def read_states() -> tuple[GpuState, ...] | str:
    """Of every GPU that NVML shows; a text says why it cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return "NVML is asked through nvidia-ml-py: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML does not start: {error}"
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(_read(pynvml, handle) for handle in handles) or "NVML shows no GPU"
    except pynvml.NVMLError as error:
        return f"NVML does not list the GPUs: {error}"
    finally:
        pynvml.nvmlShutdown()


def _read(nvml: Any, gpu: Any) -> GpuState:
    def ask(question: Callable[[], _T]) -> _T | None:
        """Each GPU and driver supports some of these; the others are NVMLError."""
        try:
            return question()
        except nvml.NVMLError:
            return None

    address = nvml.nvmlDeviceGetPciInfo(gpu)
    ecc, clock = (
        (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        nvml.NVML_CLOCK_SM,
    )
    mode = ask(lambda: nvml.nvmlDeviceGetEccMode(gpu)[0])
    sliced = ask(lambda: nvml.nvmlDeviceGetMigMode(gpu)[0])
    persistent = ask(lambda: nvml.nvmlDeviceGetPersistenceMode(gpu))
    return GpuState(
        address=pci_address(address.domain, address.bus, address.device),
        is_persistent=None if persistent is None else bool(persistent),
        application_mhz=ask(lambda: int(nvml.nvmlDeviceGetApplicationsClock(gpu, clock))),
        max_mhz=ask(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(gpu, clock))),
        reasons=ask(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))),
        celsius=ask(lambda: int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))),
        has_ecc=None if mode is None else bool(mode),
        uncorrected=ask(lambda: int(nvml.nvmlDeviceGetTotalEccErrors(gpu, *ecc))),
        replays=ask(lambda: int(nvml.nvmlDeviceGetPcieReplayCounter(gpu))),
        is_sliced=None if sliced is None else bool(sliced),
        num_processes=ask(lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu))),
    )


def judge(gpu: GpuState) -> list[Finding]:
    return [
        _yes_or_no(_PERSISTENCE, gpu, gpu.is_persistent, good=True),
        _clocks(gpu),
        _throttle(gpu),
        _at_most(_HEAT, gpu, gpu.celsius, _HOT_CELSIUS - 1),
        _ecc(gpu),
        _at_most(_REPLAY, gpu, gpu.replays, 0),
        _yes_or_no(_MIG, gpu, gpu.is_sliced, good=False),
        _at_most(_TENANTS, gpu, gpu.num_processes, 0),
    ]


def _clocks(gpu: GpuState) -> Finding:
    if gpu.application_mhz is None or gpu.max_mhz is None:
        return _CLOCKS.unknown(f"{gpu.address}: not supported")
    said = f"{gpu.address}: {gpu.application_mhz} of {gpu.max_mhz} MHz"
    return _CLOCKS.ok(said) if gpu.application_mhz >= gpu.max_mhz else _CLOCKS.warn(said)


def _throttle(gpu: GpuState) -> Finding:
    if gpu.reasons is None:
        return _THROTTLE.unknown(f"{gpu.address}: not supported")
    slow = [name for bit, name in _SLOWDOWNS.items() if gpu.reasons & bit]
    if slow:
        return _THROTTLE.fail(f"{gpu.address}: {', '.join(slow)}")
    if gpu.reasons & _POWER_CAP:
        return _THROTTLE.warn(f"{gpu.address}: power cap")
    return _THROTTLE.ok(f"{gpu.address}: none")


def _ecc(gpu: GpuState) -> Finding:
    if gpu.has_ecc is None:
        return _ECC.unknown(f"{gpu.address}: not supported")
    if not gpu.has_ecc:
        return _ECC.warn(f"{gpu.address}: off", command=f"nvidia-smi -i {gpu.address} -e 1")
    said = f"{gpu.address}: on, {gpu.uncorrected} uncorrected"
    if gpu.uncorrected is None:
        return _ECC.unknown(f"{gpu.address}: on, errors are not counted")
    return _ECC.fail(said) if gpu.uncorrected else _ECC.ok(said)


def _yes_or_no(rule: Rule, gpu: GpuState, value: bool | None, *, good: bool) -> Finding:
    if value is None:
        return rule.unknown(f"{gpu.address}: not supported")
    said = f"{gpu.address}: {'on' if value else 'off'}"
    command = rule.command.replace("GPU", gpu.address)
    return rule.ok(said) if value == good else rule.warn(said, command=command)


def _at_most(rule: Rule, gpu: GpuState, value: int | None, highest: int) -> Finding:
    if value is None:
        return rule.unknown(f"{gpu.address}: not supported")
    said = f"{gpu.address}: {value}"
    return rule.ok(said) if value <= highest else rule.warn(said)


CHECKS: tuple[Check, ...] = (state,)

"""NVML made of numbers, as the module `pynvml` shows it; what is None is not supported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two GPUs alike; `answers` by the name of the function."""

    NVMLError = NVMLError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            "PersistenceMode": 1,
            "ApplicationsClock": 1980,
            "MaxClockInfo": 1980,
            "CurrentClocksThrottleReasons": 1,
            "Temperature": 40,
            "EccMode": [1, 1],
            "TotalEccErrors": 0,
            "PcieReplayCounter": 0,
            "MigMode": [0, 0],
            "ComputeRunningProcesses": [],
            **answers,
        }
        self.num_open = 0

    def nvmlInit(self) -> None:
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(domain=0, bus=(0x3B, 0xAF)[handle], device=0)

    def __getattr__(self, name: str) -> Any:
        answer = self.answers[name.removeprefix("nvmlDeviceGet")]

        def call(*_: object) -> Any:
            if answer is None:
                raise NVMLError("Not Supported")
            return answer

        return call

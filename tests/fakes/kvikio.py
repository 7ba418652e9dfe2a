"""kvikio as far as the store uses it, with host memory for the GPU's.

As documented and seen of 26.10: threads of its own, an error past the end of the file, a number
as the compat mode, settings that belong to the process.
"""

from __future__ import annotations

import enum
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest


class CompatMode(enum.IntEnum):
    OFF = 0
    ON = 1
    AUTO = 2


class DeviceArray:
    """Memory that says it is a GPU's."""

    def __init__(self, num_bytes: int, *, read_only: bool = False, strides: Any = None) -> None:
        self.memory: npt.NDArray[np.uint8] = np.full(num_bytes, 0xA5, np.uint8)
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (self.memory.ctypes.data, read_only),
            "strides": strides,
            "version": 3,
        }


class _Reading:
    """A read in a thread that ends with it, so that no test finds another's."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._future: Future[int] = Future()
        threading.Thread(target=self._run, name="fake-kvikio").start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._read())
        except BaseException as error:
            self._future.set_exception(error)

    def get(self) -> int:
        return self._future.result()


class CuFile:
    opened: list[str] = []  # noqa: RUF012  (shared on purpose: what the process has opened)

    def __init__(self, file: Path | str, flags: str = "r") -> None:
        assert flags == "r"
        self._fd = os.open(file, os.O_RDONLY)
        self.opened.append(str(file))

    def __del__(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def pread(self, buf: DeviceArray, size: int, file_offset: int) -> _Reading:
        return _Reading(partial(self._read, buf, size, file_offset))

    def _read(self, buf: DeviceArray, size: int, offset: int) -> int:
        assert 0 < size <= len(buf.memory)
        data = os.pread(self._fd, size, offset)
        if len(data) < size:
            raise RuntimeError("POSIX error on pread: EOF")
        buf.memory[:size] = np.frombuffer(data, np.uint8)
        return size


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it where `import kvikio` finds it; the settings it was given, as they come."""
    settings: dict[str, Any] = {}
    module, defaults = ModuleType("kvikio"), ModuleType("kvikio.defaults")
    parts = {"CompatMode": CompatMode, "CuFile": CuFile, "defaults": defaults}
    vars(module).update(parts, drop_file_page_cache=lambda path: settings.update(dropped=path))
    vars(defaults).update(set=settings.update, get=settings.get)
    monkeypatch.setitem(sys.modules, "kvikio", module)
    monkeypatch.setitem(sys.modules, "kvikio.defaults", defaults)
    CuFile.opened.clear()
    return settings

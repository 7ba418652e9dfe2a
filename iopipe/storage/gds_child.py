"""The process that `storage.gds_probe` starts: asks kvikio what may never return.

Invariant: each answer is one line of JSON, written before the next step begins, so that whoever
ends this process knows what it was at.
"""

from __future__ import annotations

import ctypes
import json
import sys
from importlib import import_module
from typing import Any

_NUM_BYTES = 1 << 20


def main(path: str, *, may_open: bool) -> int:
    """Exit code 1 and an 'error' where no read into GPU memory can be; `may_open` says
    whether cuFile's driver may be opened."""
    _say(step="importing kvikio")
    try:
        kvikio = import_module("kvikio")
        defaults, driver = (import_module(f"kvikio.{n}") for n in ("defaults", "cufile_driver"))
    except ImportError as error:
        _say(error=f"kvikio cannot be imported: {error}; pip install 'iopipe[gds]'")
        return 1
    _say(step="starting the CUDA driver")
    try:
        memory = _device_memory(_NUM_BYTES)
    except OSError as error:
        _say(error=str(error))
        return 1
    mode = kvikio.CompatMode.OFF if may_open else kvikio.CompatMode.ON
    defaults.set("compat_mode", mode)
    if may_open:
        _say(step="opening cuFile's driver")
        driver.driver_open()
        _say(is_gds_available=bool(driver.get("is_gds_available")))
    _say(step="reading into GPU memory")
    with kvikio.CuFile(path, "r") as file:
        _say(compat_mode=defaults.get("compat_mode").name)
        size = min(_NUM_BYTES, _size(path))
        if size:
            file.pread(memory, size).get()
    _say(step="done")
    return 0


class _DeviceMemory:
    """Device memory as kvikio takes it: the CUDA array interface, version 3."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def _device_memory(num_bytes: int) -> _DeviceMemory:
    """Of GPU 0, in its primary context, through the driver alone; it goes with the process."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    for name, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), 0),
        ("cuDevicePrimaryCtxRetain", ctypes.byref(context), device),
        ("cuCtxSetCurrent", context),
        ("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(num_bytes)),
    ):
        code = getattr(driver, str(name))(*arguments)
        if code:
            raise OSError(f"{name} says CUDA error {code}: is there a GPU for this process?")
    return _DeviceMemory(address.value, num_bytes)


def _size(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, 2)


def _say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], may_open=sys.argv[2] == "1"))

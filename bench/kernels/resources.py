"""What configurations would take of a multiprocessor, before any of them runs.

Stands between the tuner and the ahead-of-time compiler.  Invariant: nothing is launched: a
launch is only recorded, then compiled in other processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from iopipe.bench.kernels.aot import Build, Compiled, CompileError, name_of, try_compile
from iopipe.kernels.configs import Config

_PLAIN = (bool, int, float, str, type(None))
_OPTIONS = ("num_warps", "num_ctas", "num_stages", "enable_fp_fusion")
_REGISTERS = 65536
_WARPS = 64
_WARP_THREADS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one multiprocessor."""

    sm: int
    shared_bytes: int
    """That one program may have."""

    @classmethod
    def of_device(cls) -> Limits:
        """Of the current CUDA device, as Triton sees it."""
        from triton.runtime import driver

        major, minor = torch.cuda.get_device_capability()
        found = driver.active.utils.get_device_properties(torch.cuda.current_device())
        return cls(sm=10 * major + minor, shared_bytes=found["max_shared_mem"])


@contextmanager
def recorded_builds() -> Iterator[list[Build]]:
    """What Triton would have to compile for the launches inside; they do not happen.

    A specialisation that is compiled already is launched as ever and not recorded, and one
    with arguments that are not plain values is skipped without a record.
    """
    from triton import knobs

    builds: list[Build] = []

    def note(*, fn: Any, compile: Mapping[str, Any], **_: Any) -> bool:
        build = _build(fn.jit_function, compile)
        if build is not None:
            builds.append(build)
        return True  # do not compile

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, note
    try:
        yield builds
    finally:
        knobs.runtime.jit_cache_hook = before


def _build(function: Any, compiled: Mapping[str, Any]) -> Build | None:
    names = function.arg_names
    constants = compiled["constants"]
    (attributes,) = compiled["configs"]
    if any(len(path) != 1 for path in (*constants, *attributes)):
        return None
    if not all(isinstance(value, _PLAIN) for value in constants.values()):
        return None
    return Build(
        function=name_of(function),
        signature=dict(compiled["signature"]),
        constants={names[at]: value for (at,), value in constants.items()},
        aligned=tuple(names[at] for (at,), value in attributes.items() if value),
        options={name: compiled[name] for name in _OPTIONS},
    )


def refused(
    configs: Mapping[str, Config], run: Callable[[Config], object], *, limits: Limits
) -> tuple[dict[str, str], dict[str, Compiled]]:
    """Which configurations need not be timed and why, and the machine code of the others.

    Refused is what does not compile, does not fit, or spills where another does not.
    """
    builds: dict[str, list[Build]] = {}
    for name, config in configs.items():
        with recorded_builds() as builds[name]:
            run(config)
    flat = [(name, build) for name, found in builds.items() for build in found]
    rows = try_compile(
        [build for _, build in flat],
        sms=[limits.sm],
        num_processes=min(len(os.sched_getaffinity(0)), max(1, len(flat) // 2)),
    )
    codes: dict[str, list[tuple[Build, Compiled]]] = {name: [] for name in configs}
    reasons: dict[str, str] = {}
    for (name, build), (answer,) in zip(flat, rows, strict=True):
        if isinstance(answer, CompileError):
            reasons[name] = str(answer)
        else:
            codes[name].append((build, answer))
            if misfit := _misfit(build, answer, limits):
                reasons.setdefault(name, misfit)
    reasons |= _spilling({name: found for name, found in codes.items() if name not in reasons})
    heaviest = {
        name: max((code for _, code in found), key=lambda code: code.registers)
        for name, found in codes.items()
        if found and name not in reasons
    }
    return reasons, heaviest


def _misfit(build: Build, code: Compiled, limits: Limits) -> str:
    registers = code.registers * _WARP_THREADS * int(build.options["num_warps"])
    if registers > _REGISTERS:
        return f"{registers} registers a program, a multiprocessor has {_REGISTERS}"
    if code.shared_bytes > limits.shared_bytes:
        return f"{code.shared_bytes} bytes of shared memory, {limits.shared_bytes} is the most"
    return ""


def _spilling(codes: Mapping[str, Sequence[tuple[Build, Compiled]]]) -> dict[str, str]:
    spills = {name: sum(code.spills for _, code in found) for name, found in codes.items()}
    if all(spills.values()):
        return {}
    return {name: f"{count} spills" for name, count in spills.items() if count}


def resident_warps(code: Compiled, *, num_warps: int, shared_bytes: int) -> int:
    """Of the 64 warps a multiprocessor holds, how many its registers and memory allow."""
    by_registers = _REGISTERS // max(1, code.registers * _WARP_THREADS * num_warps)
    by_shared = shared_bytes // code.shared_bytes if code.shared_bytes else _WARPS
    return min(_WARPS, num_warps * min(by_registers, by_shared))

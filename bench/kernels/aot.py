"""Machine code without a GPU: what the compiler made of a Triton function.

Stands between the kernels and whoever judges their code: tests (no spills, wide loads) and
the tuner, which drops configurations before it times them.  Invariant: nothing is compiled
in this process, where Triton may be the interpreter; each call starts processes of its own.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iopipe.errors import IopipeError, MissingDependency

SMS = (80, 90, 100)
"""What kernels must compile for: A100, H100 and H200, B200."""

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class CompileError(IopipeError):
    """Triton refused a specialisation; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One specialisation of a Triton function, in plain values."""

    function: str
    """'module:name', importable in another process."""
    signature: Mapping[str, str]
    """Every argument in order: '*u8', 'i32', 'fp32', 'constexpr'."""
    constants: Mapping[str, int | float | bool | str | None]
    """The values of those that are 'constexpr'."""
    aligned: tuple[str, ...] = ()
    """Arguments known to be divisible by 16: without that, pointers are read narrowly."""
    options: Mapping[str, int | bool] = field(default_factory=dict)
    """Of the launch: num_warps, num_stages, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What one specialisation became for one architecture."""

    sm: int
    registers: int
    """A thread's.  65,536 of a multiprocessor are shared by all its threads."""
    spills: int
    """Instructions that store to or load from local memory: 0 in a good kernel."""
    stack_bytes: int
    """A thread's, of local memory: 0 in a good kernel."""
    shared_bytes: int
    """A program's."""
    load_bits: Mapping[int, int]
    """How many instructions load so many bits a thread from global memory."""
    store_bits: Mapping[int, int]


def name_of(function: Any) -> str:
    """'module:name' of a function that @triton.jit made, compiled or interpreted."""
    return f"{function.fn.__module__}:{function.fn.__qualname__}"


def compile_ahead(builds: Sequence[Build], *, sms: Sequence[int] = SMS) -> list[list[Compiled]]:
    """For each build, what it became on each of `sms`; raises CompileError where one fails."""
    answers = try_compile(builds, sms=sms)
    for answer in itertools.chain.from_iterable(answers):
        if isinstance(answer, CompileError):
            raise answer
    return [[one for one in row if isinstance(one, Compiled)] for row in answers]


def try_compile(
    builds: Sequence[Build], *, sms: Sequence[int], num_processes: int = 1
) -> list[list[Compiled | CompileError]]:
    """As `compile_ahead`, with the error in the place of what failed."""
    shares = [share for n in range(num_processes) if (share := builds[n::num_processes])]
    answers: list[list[Compiled | CompileError]] = [[] for _ in builds]
    with concurrent.futures.ThreadPoolExecutor(max(1, len(shares))) as threads:
        rows = threads.map(lambda share: _in_process(share, sms), shares)
        for first, row in enumerate(rows):
            answers[first::num_processes] = row
    return answers


def _in_process(builds: Sequence[Build], sms: Sequence[int]) -> list[list[Compiled | CompileError]]:
    request = {"sms": list(sms), "builds": [dataclasses.asdict(build) for build in builds]}
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = (sys.executable, "-m", "iopipe.bench.kernels.aot")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        done = subprocess.run(
            (*command, str(answer)),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=variables,
        )
        if done.returncode:
            raise CompileError(f"the compiling process ended with {done.stderr[-2000:]}")
        rows = json.loads(answer.read_text())
    return [[_decoded(cell) for cell in row] for row in rows]


def _decoded(cell: Mapping[str, Any]) -> Compiled | CompileError:
    if "error" in cell:
        return CompileError(cell["error"])
    widths = {
        name: {int(bits): count for bits, count in cell[name].items()}
        for name in ("load_bits", "store_bits")
    }
    return Compiled(**{**cell, **widths})


# ---- in the other process ------------------------------------------------------------


def main() -> None:
    """Compile the request on the standard input; the answer goes into the named file."""
    request = json.load(sys.stdin)
    rows = [[_answer(build, sm) for sm in request["sms"]] for build in request["builds"]]
    Path(sys.argv[1]).write_text(json.dumps(rows))


def _answer(build: Mapping[str, Any], sm: int) -> dict[str, Any]:
    name = build["function"]
    try:
        return dataclasses.asdict(_compile(build, sm))
    except Exception as error:  # whatever Triton raises is an answer: this one cannot be built
        reason = f"{type(error).__name__}: {error}".strip().replace("\n", " | ")
        return {"error": f"{name} does not compile for sm_{sm}: {reason[:1000]}"}


def _compile(build: Mapping[str, Any], sm: int) -> Compiled:
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "compiling kernels needs triton: pip install 'iopipe[kernels]'"
        ) from error
    module, _, name = build["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    places = {name: number for number, name in enumerate(function.arg_names)}
    source = ASTSource(
        function,
        build["signature"],
        {(places[name],): value for name, value in build["constants"].items()},
        {(places[name],): [["tt.divisibility", 16]] for name in build["aligned"]},
    )
    target = GPUTarget("cuda", sm, 32)
    kernel = triton.compile(source, target=target, options=dict(build["options"]))
    return _read(kernel.asm["cubin"], sm=sm, shared_bytes=kernel.metadata.shared)


def _read(cubin: bytes, *, sm: int, shared_bytes: int) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        names = Counter(_INSTRUCTION.findall(_cuobjdump("--dump-sass", file.name)))
    found = _USAGE.search(usage)
    if found is None or not names:
        raise RuntimeError(f"cuobjdump says nothing that is understood: {usage[:200]!r}")
    registers, stack, static, local = (int(value) for value in found.groups())
    return Compiled(
        sm=sm,
        registers=registers,
        spills=_count(names, "STL", "LDL"),
        stack_bytes=stack + local,
        shared_bytes=max(shared_bytes, static),
        load_bits=_widths(names, "LDG", "LDGSTS"),
        store_bits=_widths(names, "STG"),
    )


def _cuobjdump(option: str, path: str) -> str:
    """Triton's wheel brings the tool."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run((str(tool), option, path), capture_output=True, text=True).stdout


def _count(names: Mapping[str, int], *stems: str) -> int:
    return sum(count for name, count in names.items() if name.partition(".")[0] in stems)


def _widths(names: Mapping[str, int], *stems: str) -> dict[int, int]:
    widths: Counter[int] = Counter()
    for name, count in names.items():
        stem, *rest = name.split(".")
        if stem in stems:
            widths[_bits(rest)] += count
    return dict(widths)


def _bits(modifiers: Sequence[str]) -> int:
    """Of LDG.E.U8, LDG.E.128.CONSTANT or LDG.E.ENL2.256; none means 32."""
    return next((int(m.lstrip("US")) for m in modifiers if re.fullmatch(r"[US]?\d+", m)), 32)


if __name__ == "__main__":
    main()

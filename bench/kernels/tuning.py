"""`iopipe tune kernels`: search, write the files, say what it brought; or check them.

Stands between the command line and the search.  Invariant: a file is written after every
kernel's every case, as a whole, so that a search that is stopped keeps what it found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from iopipe.bench.harness import environment
from iopipe.bench.kernels.cases import Case
from iopipe.bench.kernels.catalogue import all_cases, cases_like, kernels_of
from iopipe.bench.kernels.rig import Rig, measured_rig
from iopipe.bench.kernels.tune import Found, Timed, label, tune_case
from iopipe.errors import DataError, PipelineError
from iopipe.kernels import tuning
from iopipe.kernels.configs import Kernel, bucketed
from iopipe.kernels.fingerprint import fingerprint
from iopipe.kernels.gpus import triton_minor
from iopipe.kernels.lookup import SHIPPED, own_folders
from iopipe.kernels.shapes import Seen, read_shapes
from iopipe.kernels.store import Entry, Table, merged, plain_config, read_table, write_table


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What to tune, and for how long."""

    kernel: str | None = None
    """One kernel by name; None: all."""
    shapes: Path | None = None
    """A file of `collect_shapes`; None: the shapes of the benchmark."""
    seconds: float = 30.0
    """A case's, about."""


def tune_kernels(modules: Sequence[ModuleType], options: TuneOptions) -> list[Path]:
    """Tune, print before and after, write; the files.

    Into `IOPIPE_TUNE_DIR` where that is set, else into the cache folder.  Raises PipelineError
    without a CUDA device or for a kernel that is not there, DataError where a kernel differs
    from its twin.
    """
    rig = measured_rig("iopipe tune kernels")
    folders = own_folders()
    if not folders:
        raise PipelineError("no folder to write to: set IOPIPE_TUNE_DIR")
    return tune_into(folders[0], rig, _wanted(modules, options), seconds=options.seconds)


def tune_into(folder: Path, rig: Rig, cases: Iterable[Case], *, seconds: float) -> list[Path]:
    """Tune every case whose bucket was not tuned yet by this call; the files."""
    print(
        f"{rig.gpu.name}: copy peak {rig.copy_peak / 1e9:,.0f} GB/s, "
        f"an empty launch {rig.floor_microseconds:.1f} us; files go into {folder}",
        flush=True,
    )
    done: dict[tuple[object, ...], str] = {}
    paths: dict[Path, None] = {}
    for case in cases:
        bucket = bucketed(case.problem)
        key = (case.kernel.name, bucket.dtypes, *sorted(bucket.shape.items()))
        if key in done:
            print(f"{case.kernel.name}, {case.name}: in one bucket with {done[key]}", flush=True)
            continue
        found = tune_case(case, rig, seconds=seconds)
        done[key] = case.name
        paths[_write(folder, rig, case, found)] = None
        for line in _lines(case, found):
            print(line, flush=True)
    tuning.forget()
    return list(paths)


def _wanted(modules: Sequence[ModuleType], options: TuneOptions) -> Iterator[Case]:
    if options.shapes is None:
        return all_cases(modules, "cuda", kernel=options.kernel)
    return cases_like(
        modules,
        "cuda",
        seen=read_shapes(options.shapes),
        on_missing=_show_missing,
        kernel=options.kernel,
    )


def _show_missing(seen: Seen) -> None:
    shape = ", ".join(f"{name} {size}" for name, size in seen.problem.shape.items())
    print(f"{seen.kernel}: no case makes {shape} of {seen.problem.dtypes}: not tuned", flush=True)


def _write(folder: Path, rig: Rig, case: Case, found: Found) -> Path:
    path = folder / rig.gpu.folder / f"{case.kernel.name}.json"
    entry = Entry(
        source=fingerprint(case.kernel),
        triton=triton_minor(),
        problem=bucketed(case.problem),
        config=found.chosen.config,
        measured=_measured(case, found),
    )
    new = Table(kernel=case.kernel.name, gpu=rig.gpu, entries=(entry,))
    write_table(path, merged(_readable(path), new))
    return path


def _readable(path: Path) -> Table | None:
    """The table that is there already; a damaged one is replaced."""
    try:
        return read_table(path)
    except DataError as error:
        print(f"{error}: it is replaced", flush=True)
        return None


def _measured(case: Case, found: Found) -> dict[str, Any]:
    machine = environment()
    kept = ("date", "gpu", "driver", "torch", "triton", "python")
    return {
        "case": found.case,
        "bytes": case.num_bytes,
        "bound_microseconds": round(found.bound_microseconds, 2),
        "fraction_of_copy_peak": round(found.fraction_of_copy_peak, 4),
        "bound_by": found.bound_by,
        "chosen": _plain(found.chosen),
        "heuristic": {**plain_config(found.heuristic.config), **_plain(found.heuristic)},
        "num_candidates": found.num_candidates,
        "refused": dict(found.refused),
        "environment": {name: machine[name] for name in kept if name in machine},
    }


def _plain(timed: Timed) -> dict[str, float]:
    return {
        "microseconds": round(timed.microseconds, 2),
        "microseconds_beside_matmul": round(timed.beside.microseconds, 2),
        "matmul_slowdown": round(timed.beside.rival_slowdown, 3),
    }


def _lines(case: Case, found: Found) -> Iterator[str]:
    before, after = found.heuristic, found.chosen
    yield f"{case.kernel.name}, {found.case}: {label(after.config)}"
    yield (
        f"    {before.microseconds:9.1f} -> {after.microseconds:9.1f} us, "
        f"{100 * found.fraction_of_copy_peak:.0f} % of the copy peak, predicted bound "
        f"{found.bound_microseconds:.1f} us, bound by {found.bound_by}"
    )
    yield (
        f"    beside a matmul {before.beside.microseconds:.1f} -> "
        f"{after.beside.microseconds:.1f} us, which takes {before.beside.rival_slowdown:.2f} -> "
        f"{after.beside.rival_slowdown:.2f} of its time alone; {found.num_candidates} candidates, "
        f"{len(found.refused)} refused"
    )


# ---- --check -------------------------------------------------------------------------


def check_kernels(modules: Sequence[ModuleType], *, kernel: str | None = None) -> list[str]:
    """Every file of configurations that is out of date, one line each: damaged, of a kernel
    that is not there, for another source, or without entries for this Triton."""
    known = kernels_of(modules)
    if kernel is not None and kernel not in known:
        raise PipelineError(f"there is no kernel {kernel!r}: give one of {sorted(known)}")
    pattern = f"*/{kernel or '*'}.json"
    own = [path for folder in own_folders() for path in sorted(folder.glob(pattern))]
    shipped = sorted(SHIPPED.glob(pattern))
    return [
        *(f"{path}: {reason}" for path in own if (reason := _stale(path, known, own=True))),
        *(f"{path}: {reason}" for path in shipped if (reason := _stale(path, known, own=False))),
    ]


def _stale(path: Path, known: dict[str, Kernel], *, own: bool) -> str:
    try:
        table = read_table(path)
    except DataError as error:
        return f"damaged: {error}"
    if table is None:  # it went meanwhile
        return ""
    kernel = known.get(table.kernel)
    if kernel is None or path.stem != table.kernel:
        return f"of the kernel {table.kernel}, which is not there, or in another's file"
    if any(entry.source != fingerprint(kernel) for entry in table.entries):
        return f"for another version of the kernel {table.kernel}"
    if not all(_is_tried(kernel, entry) for entry in table.entries):
        return "damaged: it has a configuration that the search would not try"
    minors = {entry.triton for entry in table.entries}
    if own and triton_minor() not in minors:
        return f"for Triton {', '.join(sorted(minors))}; this is {triton_minor()}"
    return ""


def _is_tried(kernel: Kernel, entry: Entry) -> bool:
    try:
        return entry.config in kernel.candidates(entry.problem)
    except (KeyError, AttributeError, ArithmeticError):  # sizes or dtypes that it does not have
        return False

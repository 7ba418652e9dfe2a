"""Which kernels and cases there are: every module of this folder with a `cases` function.

Stands between the files of cases and those who time them.  Invariant: one case is alive at
a time, if its user lets go: inputs take gigabytes.

A module may have `case_of(kernel, problem, device)` beside `cases`: inputs of any size, for
problems that were collected from a run; it answers None to what it cannot make.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType

from iopipe.bench import kernels
from iopipe.bench.kernels.cases import Case
from iopipe.errors import PipelineError
from iopipe.kernels.configs import Kernel, Problem, bucketed
from iopipe.kernels.shapes import Seen


def modules_of_cases() -> list[ModuleType]:
    """In the order of their names."""
    names = (found.name for found in pkgutil.iter_modules(kernels.__path__))
    modules = (importlib.import_module(f"{kernels.__name__}.{name}") for name in names)
    return [module for module in modules if hasattr(module, "cases")]


def kernels_of(modules: Iterable[ModuleType]) -> dict[str, Kernel]:
    """The kernels that the modules' names stand for, by name."""
    values = (value for module in modules for value in vars(module).values())
    return {value.name: value for value in values if isinstance(value, Kernel)}


def all_cases(
    modules: Sequence[ModuleType], device: str, *, kernel: str | None = None
) -> Iterator[Case]:
    """Every case, or those of one kernel; raises PipelineError for a kernel that is not there."""
    known = kernels_of(modules)
    if kernel is not None and kernel not in known:
        raise PipelineError(f"there is no kernel {kernel!r}: give one of {sorted(known)}")
    for module in modules:
        if kernel is None or kernel in kernels_of([module]):
            for case in module.cases(device):
                if kernel in (None, case.kernel.name):
                    yield case


def cases_like(
    modules: Sequence[ModuleType],
    device: str,
    *,
    seen: Sequence[Seen],
    on_missing: Callable[[Seen], None],
    kernel: str | None = None,
) -> Iterator[Case]:
    """For each problem of a run a case of its bucket: made for it, or one that exists."""
    wanted = [one for one in seen if kernel in (None, one.kernel)]
    known = kernels_of(modules)
    homes = {name: module for module in modules for name in kernels_of([module])}
    left = {}
    for one in wanted:
        make = getattr(homes.get(one.kernel), "case_of", None)
        case = make(known[one.kernel], one.problem, device) if make is not None else None
        key = _key(one.kernel, one.problem)
        if case is None or _key(case.kernel.name, case.problem) != key:
            left[key] = one
        else:
            yield case
    names = {one.kernel for one in left.values()}
    for module in {homes[name].__name__: homes[name] for name in names & set(homes)}.values():
        for case in module.cases(device):
            if left.pop(_key(case.kernel.name, case.problem), None) is not None:
                yield case
    for one in left.values():
        on_missing(one)


def _key(kernel: str, problem: Problem) -> tuple[object, ...]:
    bucket = bucketed(problem)
    return (kernel, bucket.dtypes, *sorted(bucket.shape.items()))

"""The search for the fastest configuration of a kernel at one problem.

Stands above timing, compiling and verifying; what it finds goes into the files that
`kernels.tuning` looks into.  Invariant: only what gave the right bits is timed, and the
heuristic's choice stays unless another one beats it clearly.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from iopipe.bench.kernels.aot import Compiled
from iopipe.bench.kernels.cases import Case
from iopipe.bench.kernels.rig import Rig
from iopipe.bench.kernels.timing import Beside
from iopipe.bench.kernels.verify import Verifier
from iopipe.kernels.configs import Config

_FIRST_ROUNDS = 5
_LAST_ROUNDS = 31
_BESIDE_ROUNDS = 5
_FINALISTS = 3
_TIE = 1.02
"""Times this near are equal; the one that is faster beside a matrix product wins."""
_WORTHWHILE = 0.98
"""Of the heuristic's time: what a configuration must reach to take its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One configuration."""

    config: Config
    microseconds: float
    """Alone, cold L2: the median."""
    beside: Beside
    """Beside a matrix product that always has work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the search came to at one case."""

    case: str
    chosen: Timed
    heuristic: Timed
    bound_microseconds: float
    """Predicted from the bytes, before anything ran."""
    fraction_of_copy_peak: float
    bound_by: str
    num_candidates: int
    refused: Mapping[str, str]
    """Configurations that were not timed, and why."""


def label(config: Config) -> str:
    """'BLOCK=1024 warps=4 stages=1': unique, and short enough for a table."""
    blocks = (f"{name}={size}" for name, size in config.blocks.items())
    return " ".join((*blocks, f"warps={config.num_warps}", f"stages={config.num_stages}"))


def tune_case(
    case: Case, rig: Rig, *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> Found:
    """Search for about `seconds`; the first round, the last and all checks are always made.

    Raises DataError where the heuristic's own configuration differs from the twin.
    """
    deadline = clock() + seconds
    heuristic = case.kernel.heuristic(case.problem)
    configs = {label(config): config for config in _candidates(case, heuristic)}
    reasons, codes = rig.refuse(configs, case.run)
    first = label(heuristic)
    reasons.pop(first, None)  # whatever it takes, it is what runs today
    verifier = Verifier(case, heuristic)
    for name in configs:
        if name not in reasons and (fault := verifier.fault(configs[name])):
            reasons[name] = fault
    left = {name: config for name, config in configs.items() if name not in reasons}
    finalists = _halved(case, left, first, rig, until=lambda: clock() >= deadline)
    timed = _timed(case, finalists, rig)
    chosen = _best(timed, timed[first])
    return Found(
        case=case.name,
        chosen=chosen,
        heuristic=timed[first],
        bound_microseconds=rig.bound_microseconds(case.num_bytes),
        fraction_of_copy_peak=rig.fraction_of_peak(case.num_bytes, chosen.microseconds),
        bound_by=_bound_by(case, chosen, codes, rig),
        num_candidates=len(configs),
        refused=reasons,
    )


def _candidates(case: Case, heuristic: Config) -> Sequence[Config]:
    return [heuristic, *case.kernel.candidates(case.problem)]


def _halved(
    case: Case, left: Mapping[str, Config], first: str, rig: Rig, *, until: Callable[[], bool]
) -> dict[str, Config]:
    """The better half, again and again, each time measured twice as long; the heuristic's
    choice stays in to the end, since the others are judged by it."""
    names, num_rounds = list(left), _FIRST_ROUNDS
    while len(names) > _FINALISTS:
        runs = {name: partial(case.run, left[name]) for name in names}
        medians = _medians(rig.timer.alone(runs, num_rounds=num_rounds))
        num_kept = _FINALISTS if until() else max(_FINALISTS, len(names) // 2)
        names = sorted(names, key=lambda name: medians[name])[:num_kept]
        num_rounds *= 2
    return {name: left[name] for name in dict.fromkeys((first, *names))}


def _timed(case: Case, configs: Mapping[str, Config], rig: Rig) -> dict[str, Timed]:
    runs = {name: partial(case.run, config) for name, config in configs.items()}
    medians = _medians(rig.timer.alone(runs, num_rounds=_LAST_ROUNDS))
    beside = rig.timer.beside(runs, num_rounds=_BESIDE_ROUNDS)
    return {
        name: Timed(config=config, microseconds=medians[name], beside=beside[name])
        for name, config in configs.items()
    }


def _medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def _best(timed: Mapping[str, Timed], heuristic: Timed) -> Timed:
    limit = _WORTHWHILE * heuristic.microseconds
    better = [one for one in timed.values() if one.microseconds < limit]
    if not better:
        return heuristic
    fastest = min(one.microseconds for one in better)
    tied = [one for one in better if one.microseconds <= _TIE * fastest]
    return min(tied, key=lambda one: one.beside.microseconds)


def _bound_by(case: Case, chosen: Timed, codes: Mapping[str, Compiled], rig: Rig) -> str:
    code = codes.get(label(chosen.config))
    return rig.bound_by(case.num_bytes, chosen.microseconds, code, chosen.config)

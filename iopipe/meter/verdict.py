"""The report in plain words, each with its evidence.

Stands at the end of the meter.  Invariant: says nothing that the report's numbers do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iopipe.meter.report import Report, WhatIf

_FED = 0.01
"""Below this share of stalled time a step is called fed: it is within the noise of clocks."""
_WORTH_NAMING = 0.01
_AS_GOOD = 0.985


def verdict_of(report: Report) -> str:
    """Starved or fed, by how much, of what, and what would help."""
    if not report.num_steps:
        return "nothing was measured yet"
    parts = [_starvation(report), *_elsewhere(report)]
    if report.attributed_stall_fraction >= _FED:
        parts += [_recoverable(report), *_remedy(report), *_busiest(report)]
    if report.interference is not None and report.interference.low > 0:
        percent = 100 * report.interference.fraction
        parts.append(f"the input slows the step by {percent:.1f} % while it runs")
    if report.storage is not None:
        percent = 100 * report.storage.share
        parts.append(f"storage is at {percent:.0f} % of its measured ceiling")
    if report.low_confidence:
        parts.append(f"low confidence: {report.low_confidence}")
    return "; ".join(parts)


def _starvation(report: Report) -> str:
    percent = 100 * report.attributed_stall_fraction
    if report.attributed_stall_fraction < _FED:
        return f"fed: the training step starved {percent:.1f} % of the time"
    parts = sorted(report.causes.items(), key=lambda part: -part[1])
    split = ", ".join(f"{name} {100 * share:.1f} %" for name, share in parts if share > 5e-4)
    return f"the training step starved {percent:.1f} % of the time: {parts[0][0]}-bound ({split})"


def _recoverable(report: Report) -> str:
    return f"{100 * report.recoverable_stall_fraction:.1f} % recoverable"


def _elsewhere(report: Report) -> list[str]:
    """Idle time that no input can win back."""
    named = {
        "launching its first kernel": report.launch_fraction,
        "the loop's own code": report.other_host_fraction,
    }
    return [
        f"{100 * share:.1f} % idle because of {name}, which is not the input"
        for name, share in named.items()
        if share >= _WORTH_NAMING
    ]


def _remedy(report: Report) -> list[str]:
    """The prediction that promises most, if it promises anything that could be noticed."""
    now = report.samples_per_second
    sure = [one for one in report.what_if if one.low > now]
    if not report.what_if or not now:
        return []
    if not sure:
        return ["no change that was replayed would make a detectable difference"]
    best = max(sure, key=_promise)
    # Changes that ask for less come behind those that they are a part of.
    as_good = [one for one in sure if one.samples_per_second >= _AS_GOOD * best.samples_per_second]
    best = as_good[-1] if "more" in as_good[-1].change else best
    return [
        f"{best.change}: predicted {best.samples_per_second / now:.2f}x "
        f"({best.low / now:.2f} to {best.high / now:.2f})"
    ]


def _promise(prediction: WhatIf) -> float:
    return prediction.low


def _busiest(report: Report) -> list[str]:
    if not report.stages:
        return []
    stage = max(report.stages, key=lambda stage: stage.busy_fraction)
    percent = 100 * stage.busy_fraction
    return [f"{stage.name} is the busiest stage, its threads work {percent:.0f} % of the time"]

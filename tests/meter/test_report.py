"""Reports: plain words, plain values."""

from __future__ import annotations

import json
from dataclasses import replace

from iopipe.meter.report import IDLE_CAUSES, ErrorReport, Report, StageReport, Step, WhatIf


def _report(fraction: float) -> Report:
    return Report(
        num_steps=10,
        wall_seconds=2.0,
        samples_per_second=100.0,
        attributed_stall_fraction=fraction,
        recoverable_stall_fraction=0.3,
        launch_fraction=0.001,
        causes={"storage": fraction * 0.1, "decode": fraction * 0.9},
        stages=(
            StageReport(
                name="decode", cause="decode", concurrency=2, num_items=5, busy_seconds=1,
                busy_fraction=0.25,
            ),
        ),
        what_if=(
            WhatIf(change="cached", now=100, samples_per_second=130, low=95, high=160, bound=131),
            WhatIf(
                change="2x decode threads", now=100, samples_per_second=136, low=130, high=141,
                bound=140,
            ),
        ),
        errors=ErrorReport(num_skipped=3),
        steps=(Step(start_ns=0, duration_ns=1, stall_ns=0, cause="decode"),),
    )  # fmt: skip


def test_the_verdict_names_the_main_cause_first() -> None:
    assert _report(0.312).verdict == (
        "the training step starved 31.2 % of the time: decode-bound (decode 28.1 %, storage 3.1 %)"
        "; 30.0 % recoverable; 2x decode threads: predicted 1.36x (1.30 to 1.41)"
        "; decode is the busiest stage, its threads work 25 % of the time"
    )
    assert _report(0.004).verdict == "fed: the training step starved 0.4 % of the time"


def test_a_report_is_json_able_and_printable() -> None:
    values = json.loads(json.dumps(_report(0.5).to_json()))
    assert values["attributed_stall_fraction"] == 0.5
    assert values["schema"] == 1
    assert set(values["causes"]) == set(IDLE_CAUSES)
    assert values["causes"]["launch"] == 0.001
    assert values["causes"]["decode"] == 0.45
    stage = values["stages"][0]
    assert (stage["threads"], stage["busy"], stage["idle"], stage["blocked"]) == (2, 0.25, 0.75, 0)
    assert values["what_if"][1] == {
        "change": "2x decode threads",
        "now": 100,
        "samples_per_second": 136,
        "low": 130,
        "high": 141,
        "bound": 140,
    }
    assert values["verdict"].startswith("the training step starved 50.0 %")
    text = str(_report(0.5))
    assert text.splitlines()[0] == values["verdict"]
    assert "decode: 2 threads busy 25 %" in text
    assert "3 damaged samples" in text


def test_idle_time_that_is_not_input_is_named_as_such() -> None:
    report = Report(num_steps=5, launch_fraction=0.12, other_host_fraction=0.05)
    assert report.verdict.startswith("fed: ")
    assert "12.0 % idle because of launching its first kernel, which is not the input" in (
        report.verdict
    )
    assert "5.0 % idle because of the loop's own code" in report.verdict


def test_where_nothing_would_help_the_verdict_says_so() -> None:
    guess = WhatIf(change="cached", now=100, samples_per_second=103, low=97, high=109, bound=104)
    report = Report(
        num_steps=5,
        samples_per_second=100,
        attributed_stall_fraction=0.05,
        causes={"storage": 0.05},
        what_if=(guess,),
        low_confidence="the clocks disagree",
    )
    assert "no change that was replayed would make a detectable difference" in report.verdict
    assert report.verdict.endswith("low confidence: the clocks disagree")


def test_a_cold_start_of_the_run_is_nothing_to_be_won() -> None:
    """The last steps came at 200/s; the whole run, with a cold first epoch, at 100/s."""
    same = WhatIf(
        change="prefetch 8", now=200, samples_per_second=201, low=190, high=210, bound=205
    )
    better = WhatIf(change="cached", now=200, samples_per_second=300, low=290, high=310, bound=305)
    report = Report(
        num_steps=5,
        samples_per_second=100,
        attributed_stall_fraction=0.05,
        causes={"storage": 0.05},
        what_if=(same,),
    )
    assert "no change that was replayed" in report.verdict
    assert (
        "cached: predicted 1.50x (1.45 to 1.55)" in replace(report, what_if=(same, better)).verdict
    )

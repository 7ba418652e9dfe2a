"""Reports: plain words, plain values."""

from __future__ import annotations

import json

from iopipe.meter.report import ErrorReport, Report, StageReport, Step


def _report(fraction: float) -> Report:
    return Report(
        num_steps=10,
        wall_seconds=2.0,
        attributed_stall_fraction=fraction,
        causes={"storage": fraction * 0.1, "decode": fraction * 0.9},
        stages=(
            StageReport(
                name="decode", cause="decode", concurrency=2, num_items=5, busy_seconds=1,
                busy_fraction=0.25,
            ),
        ),
        errors=ErrorReport(num_skipped=3),
        steps=(Step(start_ns=0, duration_ns=1, stall_ns=0, cause="decode"),),
    )  # fmt: skip


def test_the_verdict_names_the_main_cause_first() -> None:
    assert _report(0.312).verdict == (
        "the training step starved 31.2 % of the time: decode-bound (decode 28.1 %, storage 3.1 %)"
    )
    assert _report(0.004).verdict == "fed: the training step starved 0.4 % of the time"


def test_a_report_is_json_able_and_printable() -> None:
    values = json.loads(json.dumps(_report(0.5).to_dict()))
    assert values["attributed_stall_fraction"] == 0.5
    assert values["stages"][0]["busy_fraction"] == 0.25
    assert values["verdict"].startswith("the training step starved 50.0 %")
    text = str(_report(0.5))
    assert text.splitlines()[0] == values["verdict"]
    assert "decode: 2 threads busy 25 %" in text
    assert "3 damaged samples" in text

"""The trace: what the format asks for, tracks without overlap, times that add up."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.profiled import history_of, report_of

from iopipe import cli
from iopipe.errors import DataError
from iopipe.meter.figures import NOT_INPUT
from iopipe.meter.history import History
from iopipe.report import write_trace
from iopipe.report.content import write_report
from iopipe.report.trace import PROCESS


def _events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def _written(folder: Path, history: History, **options: Any) -> list[dict[str, Any]]:
    write_trace(report_of(history), history, folder / "trace.json", **options)
    return _events(folder / "trace.json")


def _lasting(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By the name of their track."""
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X" and event["pid"] == PROCESS:
            tracks[names[event["tid"]]].append(event)
    return tracks


@pytest.mark.parametrize("num_steps", [1, 300, 9000])
def test_tracks_hold_all_time_and_never_overlap(tmp_path: Path, num_steps: int) -> None:
    history = history_of(num_steps)
    tracks = _lasting(_written(tmp_path, history))
    timeline = history.timeline()
    assert {"steps", "input stalls", "copies", "host", "stage read"} <= set(tracks)
    for events in tracks.values():
        ordered = sorted(events, key=lambda e: float(e["ts"]))
        for one, other in itertools.pairwise(ordered):
            assert one["ts"] + one["dur"] <= other["ts"] + 1e-3
    assert len(tracks["steps"]) == len(timeline.counts)
    totals = dict(zip(timeline.causes, timeline.sums[:, 1:].sum(axis=0) / 1e3, strict=True))
    stalled = sum(us for cause, us in totals.items() if cause not in NOT_INPUT)
    assert sum(e["dur"] for e in tracks["input stalls"]) == pytest.approx(stalled)
    assert sum(e["dur"] for e in tracks["copies"]) == pytest.approx(totals["h2d"])
    assert sum(e["dur"] for e in tracks["host"]) == pytest.approx(totals["launch"])


def test_one_step_is_where_it_was_and_its_stall_at_its_end(tmp_path: Path) -> None:
    history = History()
    history.add(5_000, 25_000, {"decode": 4_000, "storage": 6_000})
    tracks = _lasting(_written(tmp_path, history, offset_us=100.0))
    (step,) = tracks["steps"]
    assert (step["name"], step["ts"], step["dur"]) == ("step 0", 105.0, 20.0)
    stalls = {e["name"]: (e["ts"], e["dur"]) for e in tracks["input stalls"]}
    assert stalls == {"decode": (121.0, 4.0), "storage": (115.0, 6.0)}


def test_it_is_merged_with_the_file_of_torch_profiler(tmp_path: Path) -> None:
    with torch.profiler.profile() as profiler:
        torch.ones(8) @ torch.ones(8)
    profiler.export_chrome_trace(str(tmp_path / "torch.json"))
    before = json.loads((tmp_path / "torch.json").read_text())
    history = history_of(10)
    write_trace(report_of(history), history, tmp_path / "both.json", merge=tmp_path / "torch.json")
    after = json.loads((tmp_path / "both.json").read_text())
    num_before = len(before["traceEvents"])
    assert num_before and after["traceEvents"][:num_before] == before["traceEvents"]
    assert len(_lasting(after["traceEvents"])["steps"]) == 10
    kept = set(before) - {"traceEvents", "displayTimeUnit"}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


@pytest.mark.parametrize("text", ["", "7", "[" * 100_000, '{"a": 1}', '{"traceEvents": 3}'])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(DataError, match="is no trace"):
        _written(tmp_path, history_of(3), merge=tmp_path / "other.json")
    assert not (tmp_path / "trace.json").exists()


def test_the_command_draws_page_and_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = history_of(50)
    write_report(report_of(history), history, tmp_path)
    trace = tmp_path / "trace.json"
    assert cli.main(["report", str(tmp_path / "report.json"), "--trace", str(trace)]) == 0
    assert "decode-bound" in capsys.readouterr().out
    assert 'id="steps"' in (tmp_path / "report.html").read_text()
    assert len(_lasting(_events(trace))["steps"]) == 50
    assert cli.main(["report", str(tmp_path / "missing.json")]) == 1
    assert "missing.json is not there" in capsys.readouterr().err


def test_merging_without_a_trace_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(tmp_path / "report.json"), "--merge", "x.json"]) == 1
    assert "--merge needs --trace" in capsys.readouterr().err

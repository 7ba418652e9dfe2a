"""Reports of a running job: when they are taken, and that each output tells them right."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fakes.profiled import history_of, report_of
from rich.console import Console

from iopipe import cli
from iopipe.errors import MissingDependency, PipelineError
from iopipe.report.grafana import dashboard
from iopipe.report.live import Live, LogLine
from iopipe.report.metrics import metrics_of, scalars_of
from iopipe.report.nvtx import with_ranges
from iopipe.report.prometheus import CONTENT_TYPE, PrometheusEndpoint, exposition
from iopipe.report.runtime import Job, RuntimeFile, running_jobs, runtime_folder
from iopipe.report.tensorboard import TensorBoardScalars
from iopipe.report.top import drawn

# Prometheus, Exposition formats, text-based format 0.0.4.
LINE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})?'
    r" (?P<value>[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|Inf|NaN))"
)
PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')


def _parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A reader of the format; every line must be one of its three kinds."""
    assert text.endswith("\n")
    found, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            assert word in ("HELP", "TYPE")
            if word == "TYPE":
                assert name not in kinds and rest in ("counter", "gauge")
                kinds[name] = rest
            continue
        match = LINE.fullmatch(line)
        assert match, line
        assert match["name"] in kinds
        assert match["name"].endswith("_total") == (kinds[match["name"]] == "counter")
        raw = PAIR.findall(match["labels"] or "")
        labels = tuple((key, re.sub(r"\\.", _unescaped, value)) for key, value in raw)
        assert (match["name"], labels) not in found
        found[match["name"], labels] = float(match["value"])
    return found


def _unescaped(match: re.Match[str]) -> str:
    return {r"\\": "\\", r"\"": '"', r"\n": "\n"}[match[0]]


def _content(**changes: Any) -> dict[str, Any]:
    return report_of(history_of(300), **changes)


class _Shown:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.num_closed = 0

    def show(self, content: Mapping[str, Any]) -> None:
        self.steps.append(content["num_steps"])

    def close(self) -> None:
        self.num_closed += 1


def test_reports_are_taken_when_due_and_never_made_up_for() -> None:
    clock, taken, shown = [0.0], [0], _Shown()

    def report() -> dict[str, Any]:
        taken[0] += 1
        return {"schema": 1, "num_steps": round(clock[0] * 10)}

    with Live(report, [shown], every_seconds=1.0, clock=lambda: clock[0]) as live:
        for now in (0.5, 0.9, 1.0, 1.1, 1.9, 2.0, 9.7, 9.8, 10.6, 10.7):
            clock[0] = now
            live.step()
    assert shown.steps == [10, 20, 97, 107] and taken == [4] and shown.num_closed == 1


def test_long_reports_take_a_twentieth_of_the_time_at_most() -> None:
    clock, spent = [0.0], [0.0]

    def report() -> dict[str, Any]:
        clock[0] += 1.5
        spent[0] += 1.5
        return {"schema": 1, "num_steps": 0}

    live = Live(report, [], every_seconds=1.0, clock=lambda: clock[0])
    while clock[0] < 300:
        clock[0] += 0.1
        live.step()
    assert 0.04 * clock[0] < spent[0] <= 0.051 * clock[0]


def test_all_outputs_are_closed_though_one_fails() -> None:
    class Failing(_Shown):
        def close(self) -> None:
            raise OSError("full")

    after = _Shown()
    with pytest.raises(OSError, match="full"), Live(dict, [Failing(), after]):
        pass
    assert after.num_closed == 1
    with pytest.raises(PipelineError, match="every_seconds is 0"):
        Live(dict, [], every_seconds=0)


def test_a_log_line_says_the_verdict(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LogLine().show(_content())
    assert "step 300: 21400.0 samples/s; GPU starved 13.9 %" in caplog.text


def test_the_text_format_holds_the_report() -> None:
    content = _content()
    found = _parsed(exposition(content))
    assert found["iopipe_steps_total", ()] == 300
    assert found["iopipe_lead_seconds", ()] == pytest.approx(1.5e-3)
    for cause, share in content["causes"].items():
        assert found["iopipe_idle_ratio", (("cause", cause),)] == pytest.approx(share)
    assert found["iopipe_stage_busy_ratio", (("stage", "decode"), ("position", "1"))] == 0.97
    assert _parsed(exposition({"schema": 1, "num_steps": 0})) == {("iopipe_steps_total", ()): 0}


def test_hostile_and_like_names_survive_the_text_format() -> None:
    name = 'a"b\\c\nd{}'
    stages = [{"name": name, "busy": 0.25}, {"name": name, "busy": 0.5}]
    found = _parsed(exposition({"schema": 1, "stages": stages, "causes": {name: 1e-9}}))
    assert found == {
        ("iopipe_idle_ratio", (("cause", name),)): 1e-9,
        ("iopipe_stage_busy_ratio", (("stage", name), ("position", "0"))): 0.25,
        ("iopipe_stage_busy_ratio", (("stage", name), ("position", "1"))): 0.5,
    }


def test_the_endpoint_serves_what_was_shown_last_on_this_machine_only() -> None:
    endpoint = PrometheusEndpoint(port=0)
    address = f"http://127.0.0.1:{endpoint.port}"
    try:
        endpoint.show(_content(num_steps=7))
        endpoint.show(_content(num_steps=8, causes={"\udcff": 0.5}))
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert _parsed(answer.read().decode())["iopipe_steps_total", ()] == 8
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(f"{address}/secret")
        caught.value.close()
        assert endpoint._server.server_address[0] == "127.0.0.1"
        with pytest.raises(PipelineError, match="give another port"):
            PrometheusEndpoint(port=endpoint.port)
    finally:
        endpoint.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}/metrics", timeout=5)


def test_scalars_are_written_at_their_step() -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> None:
            written.append((tag, scalar_value, global_step))

    content = _content()
    TensorBoardScalars(Writer()).show(content)
    assert {tag: value for tag, value, _ in written} == scalars_of(content)
    assert ("iopipe/stage_busy_ratio/decode/1", 0.97, 300) in written
    assert len(written) == sum(len(metric.samples) for metric in metrics_of(content))


def test_the_dashboard_asks_only_for_what_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboard"]) == 0
    panels = json.loads(capsys.readouterr().out)["panels"]
    assert panels == json.loads(json.dumps(dashboard()))["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"iopipe_\w+", target["expr"])
    }
    exported = {metric.name for metric in metrics_of({**_content(), "attributed_stall_seconds": 1})}
    assert asked and asked <= exported
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
    assert len(places) == len(panels) == len({p["id"] for p in panels})


def test_a_job_is_seen_while_it_runs(tmp_path: Path) -> None:
    output = RuntimeFile(tmp_path)
    output.show(_content())
    (job,) = running_jobs(tmp_path)
    assert (job.pid, job.report["num_steps"]) == (os.getpid(), 300)
    assert job.age_seconds < 60
    output.close()
    output.close()
    assert running_jobs(tmp_path) == []


def test_what_is_no_running_job_is_passed_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    text = json.dumps({"schema": 1, "command": "", "written": 0, "report": {}})
    (tmp_path / f"{ended.pid}.json").write_text(text)
    (tmp_path / "notes.json").write_text(text)
    mine = tmp_path / f"{os.getpid()}.json"
    for wrong in (
        "",
        "[]",
        "[" * 100_000,
        '{"schema": 1}',
        '{"schema": 2, "report": {}}',
        "x" * (1 << 21),
    ):
        mine.write_text(wrong)
        assert running_jobs(tmp_path) == []
    mine.write_text(text)
    assert [job.pid for job in running_jobs(tmp_path)] == [os.getpid()]


def test_the_runtime_folder_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = runtime_folder()
    assert folder == tmp_path / "iopipe" and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(PipelineError, match="only you can write to"):
        runtime_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PipelineError, match="only you can write to"):
        runtime_folder()


def _terminal(*jobs: Job) -> str:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    with console.file:
        console.print(drawn(jobs))
    return console.export_text()


def test_top_draws_each_job() -> None:
    text = _terminal(
        Job(pid=41, command="train.py", age_seconds=0.5, report=_content()),
        Job(pid=42, command="other.py", age_seconds=99.0, report={}),
    )
    assert "41  train.py" in text and "42  other.py, last heard of 99 s ago" in text
    assert "decode-bound" in text and "300 steps, 21,400 samples/s" in text
    assert re.search(r"decode x 6\s+━{40}\s+97\.0 %", text)
    assert "no job tells of itself" in _terminal()


def test_top_shows_no_control_characters_and_bears_wrong_kinds() -> None:
    evil = "\x1b[2J[red]evil"
    stages = [{"name": evil, "busy": "x"}, 7, {"busy": float("nan")}, {"busy": float("inf")}]
    report = {
        "verdict": evil, "causes": {evil: 0.5}, "stages": stages, "num_steps": 10**400,
        "lead_ms": float("nan"),
    }  # fmt: skip
    text = _terminal(Job(pid=1, command=evil, age_seconds=0, report=report))
    assert "\x1b" not in text and text.count("[red]evil") == 4


def test_top_once_prints_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert cli.main(["top", "--once"]) == 0
    assert "no job tells of itself" in capsys.readouterr().out
    RuntimeFile().show(_content())
    assert cli.main(["top", "--once"]) == 0
    assert "decode-bound" in capsys.readouterr().out


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf"])
def test_top_refuses_a_pause_that_is_none(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "--every", every]) == 1
    assert capsys.readouterr().err == (
        f"iopipe: every is {every}: give more than 0 seconds, and a day at most\n"
    )


def test_ranges_surround_waiting_and_stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Annotate:
        def __init__(self, message: str, *, domain: str) -> None:
            self.message = f"{domain}: {message}"

        def __enter__(self) -> None:
            events.append(f"+{self.message}")

        def __exit__(self, *_: object) -> None:
            events.append(f"-{self.message}")

    fake = ModuleType("nvtx")
    fake.annotate = Annotate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", fake)
    for batch in with_ranges("ab"):
        events.append(batch)
    wait = ["+iopipe: wait for batch", "-iopipe: wait for batch"]
    steps = [[f"+iopipe: step {n}", "ab"[n], f"-iopipe: step {n}"] for n in range(2)]
    assert events == [*wait, *steps[0], *wait, *steps[1], *wait]
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(MissingDependency, match=r"iopipe\[nvtx\]"):
        with_ranges([])


def test_the_share_of_the_storages_ceiling_is_exported_where_it_was_measured() -> None:
    use = {"bytes_per_second": 2e8, "ceiling_bytes_per_second": 1e9, "how": "read for 2 s"}
    assert scalars_of({"storage": use}) == {"iopipe/storage_ceiling_ratio": 0.2}
    assert scalars_of({"storage": None}) == {}

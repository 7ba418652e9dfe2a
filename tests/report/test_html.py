"""The page as text: complete, self-contained, escaped, and drawn from what is there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pytest
from fakes.profiled import history_of, report_of

from iopipe import cli
from iopipe.errors import DataError, NotFoundError
from iopipe.meter.history import History
from iopipe.meter.report import Report
from iopipe.report import write_html
from iopipe.report.charts import causes_chart, in_time, what_if_chart
from iopipe.report.content import content_of, read_report, write_report
from iopipe.report.html import write_html as from_values

HOSTILE = "</script><script>alert(1)</script>\"'&"


def _page(folder: Path, **changes: object) -> str:
    history = history_of(200)
    write_html(report_of(history, **changes), history, folder / "report.html")
    return (folder / "report.html").read_text()


def test_the_policy_names_the_hashes_of_script_and_style(tmp_path: Path) -> None:
    page = _page(tmp_path)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and "default-src 'none'" in policy[1]
    for element, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy[1]
    assert " style=" not in page and not re.search(r"\son[a-z]+=", page)
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    page = _page(tmp_path)
    verdict = page.index('<p class="verdict">GPU starved 13.9 % of the time')
    assert page.index('<p class="lead">3 more decode threads would remove it') > verdict
    assert all(verdict < page.index(word) for word in ("<canvas", "<svg", "<h2"))


def test_the_data_in_the_page_is_the_timeline(tmp_path: Path) -> None:
    page = _page(tmp_path)
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert embedded is not None
    data = json.loads(embedded[1])
    del data["colors"]
    assert data == history_of(200).timeline().to_json()


def test_hostile_words_are_only_words(tmp_path: Path) -> None:
    stage = {"name": HOSTILE, "threads": HOSTILE, "busy": 0.5}
    page = _page(
        tmp_path, verdict=HOSTILE, stages=[stage], environment={HOSTILE: HOSTILE},
        causes={HOSTILE: 0.5},
    )  # fmt: skip
    assert "<script>alert" not in page
    assert HOSTILE in unescape(page)


@pytest.mark.parametrize(
    "lacking",
    ["verdict", "causes", "what_if", "stages", "environment", "samples_per_second", "num_steps",
     "wall_seconds", "attributed_stall_fraction", "recoverable_stall_fraction"],
)  # fmt: skip
def test_what_a_report_lacks_is_not_drawn(tmp_path: Path, lacking: str) -> None:
    history = history_of(20)
    content = report_of(history)
    write_html(content, history, tmp_path / "whole.html")
    del content[lacking]
    write_html(content, history, tmp_path / "less.html")
    whole, less = ((tmp_path / f"{name}.html").read_text() for name in ("whole", "less"))
    assert len(less) < len(whole) or lacking in ("num_steps",)
    assert 'id="steps"' in less


def test_a_report_of_another_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="schema 2: this version draws 1"):
        write_html({"schema": 2}, History(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_taken_as_a_value_too(tmp_path: Path) -> None:
    class Measured:
        def to_json(self) -> dict[str, object]:
            return {"schema": 1, "verdict": "fed"}

    from_values(Measured(), History(), tmp_path / "report.html")
    assert "no steps were measured" in (tmp_path / "report.html").read_text()
    if hasattr(Report, "to_json"):
        assert content_of(Report())["verdict"] == Report().verdict


def _widths(chart: str, look: str) -> list[float]:
    return [float(w) for w in re.findall(rf'class="{look}" x="[\d.]+" width="([\d.]+)"', chart)]


def test_causes_are_drawn_to_scale_largest_first() -> None:
    chart = causes_chart({"storage": 0.1, "decode": 0.25, "queue": 0.0})
    assert _widths(chart, "c-decode") == [250.0] and _widths(chart, "c-storage") == [100.0]
    assert chart.index("c-decode") < chart.index("c-storage")
    assert "queue" not in chart and "busy 65.0 %" in chart


def test_predictions_are_drawn_to_scale_with_their_intervals() -> None:
    change = {"change": "cached", "samples_per_second": 150.0, "low": 120.0, "high": 200.0,
              "bound": 140.0}  # fmt: skip
    chart = what_if_chart([change], 100.0)
    assert _widths(chart, "fill") == [600.0]
    assert _widths(chart, "pale") == [400.0, 500.0]  # the interval; what was measured
    assert '"mark" x="750.00"' in chart and '"bound" x="700.00"' in chart
    assert "1.50x, 150/s (120 to 200)" in chart


def test_a_bound_beyond_the_interval_widens_the_scale() -> None:
    change = {"change": "prefetch 8", "samples_per_second": 100.0, "low": 80.0, "high": 120.0,
              "bound": 200.0}  # fmt: skip
    chart = what_if_chart([change], 100.0)
    assert '"mark" x="500.00"' in chart and '"bound" x="996.00"' in chart


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, "0 µs"), (0.0123, "12.3 µs"), (0.4124, "412 µs"), (9.531, "9.53 ms"), (1204, "1.20 s"),
     (0.9996, "1.00 ms"), (3_600_000, "3,600 s")],
)  # fmt: skip
def test_times_have_three_digits(milliseconds: float, words: str) -> None:
    assert in_time(milliseconds) == words


def test_a_report_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    history = history_of(500)
    write_report(report_of(history), history, tmp_path)
    content, timeline = read_report(tmp_path / "report.json")
    assert content == report_of(history)
    assert timeline.to_json() == history.timeline().to_json()
    (tmp_path / "steps.json").unlink()
    assert read_report(tmp_path / "report.json")[1].num_steps == 0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 3}', "\x00"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError):
        read_report(tmp_path / "report.json")
    with pytest.raises(NotFoundError, match="iopipe profile writes it"):
        read_report(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"causes": 5}, "causes holds int"),
        ({"causes": {"decode": "much"}}, "decode is 'much'"),
        ({"num_steps": None}, "num_steps is None"),
        ({"samples_per_second": 10**400}, "which is no number that could be drawn"),
        ({"wall_seconds": float("nan")}, "NaN is no number"),
        ({"attributed_stall_fraction": float("-inf")}, "-Infinity is no number"),
        ({"what_if": {}}, "what_if is dict, not a list"),
        ({"what_if": [{"change": "cached", "low": 1}]}, "lacks high, samples_per_second"),
        ({"what_if": [7]}, "what_if holds int"),
        ({"stages": [{"name": "read", "busy": []}]}, "busy is \\[\\]"),
        ({"environment": None}, "environment holds NoneType"),
    ],
)
def test_a_report_with_things_of_other_kinds_is_refused_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report_of(history_of(3)) | change))
    with pytest.raises(DataError, match=said):
        read_report(file)
    assert cli.main(["report", str(file)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_a_file_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is no JSON"):
        read_report(tmp_path / "report.json")


def test_names_that_are_no_text_are_written_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file name of other bytes than UTF-8 becomes a lone surrogate in Python."""
    file = tmp_path / "report.json"
    verdict = "fed: \x1b[2J \udcff caf\u00e9"
    file.write_text(json.dumps({"schema": 1, "verdict": verdict, "stages": [{"name": "\udcff"}]}))
    assert cli.main(["report", str(file)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "\\udcff caf\u00e9" in page
    assert capsys.readouterr().out.startswith("fed: \\x1b[2J \\udcff caf\u00e9\n")


def test_a_page_that_could_not_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str, **options: object) -> None:
        path.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_html(report_of(history_of(2)), history_of(2), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []

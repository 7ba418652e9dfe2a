"""The page: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from iopipe.meter.report import EdgeReport, Report, StageReport, Step
from iopipe.report import write_comparison
from iopipe.report.style import CAUSE_COLORS

HOSTILE = "</style><script>alert(1)</script>\"'&"
VOID = {"meta", "rect"}


class _Parsed(HTMLParser):
    """Checks that tags nest, and collects them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _report(num_steps: int) -> Report:
    return Report(
        num_steps=num_steps,
        wall_seconds=num_steps * 0.1,
        attributed_stall_fraction=0.25,
        causes={"decode": 0.2, "storage": 0.05},
        stages=(
            StageReport(
                name=HOSTILE, cause="decode", concurrency=2, num_items=5, busy_seconds=1,
                busy_fraction=0.5,
            ),
        ),
        edges=(
            EdgeReport(
                name=HOSTILE, capacity=4, num_items=5, put_wait_seconds=0, get_wait_seconds=0,
                mean_occupancy=1.5,
            ),
        ),
        steps=tuple(
            Step(start_ns=n * 10**8, duration_ns=10**8, stall_ns=25 * 10**6, cause="decode")
            for n in range(num_steps)
        ),
    )  # fmt: skip


def _page(folder: Path, *sizes: int) -> str:
    write_comparison(
        folder / "report.html",
        title=HOSTILE,
        verdict=HOSTILE,
        table=[{"run": HOSTILE, "samples/s": 10}],
        runs=[(f"{HOSTILE}{size}", _report(size)) for size in sizes],
        environment={HOSTILE: HOSTILE},
    )
    return (folder / "report.html").read_text()


def test_the_page_nests_and_loads_nothing(tmp_path: Path) -> None:
    page = _page(tmp_path, 5, 7)
    tags = _Parsed(page).tags
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_hostile_words_are_only_words(tmp_path: Path) -> None:
    parsed = _Parsed(_page(tmp_path, 3))
    assert HOSTILE in parsed.words
    assert "alert(1)" not in "".join(tag for tag, _ in parsed.tags)


@pytest.mark.parametrize(("num_steps", "num_bars"), [(1, 1), (40, 40), (100_000, 800)])
def test_the_picture_shows_all_time_and_the_starved_share(
    tmp_path: Path, num_steps: int, num_bars: int
) -> None:
    rects = [a for tag, a in _Parsed(_page(tmp_path, num_steps)).tags if tag == "rect"]
    starved = [a for a in rects if a.get("fill") == CAUSE_COLORS["decode"]]
    assert len(starved) == num_bars
    assert {a["height"] for a in starved} == {"25.0"}
    assert sum(float(str(a["width"])) for a in starved) == pytest.approx(1000, rel=0.01)


def test_a_bar_of_several_steps_shows_each_of_their_causes(tmp_path: Path) -> None:
    steps = tuple(
        Step(
            start_ns=n * 10**8,
            duration_ns=10**8,
            stall_ns=(40 if n % 2 else 20) * 10**6,
            cause="decode" if n % 2 else "storage",
        )
        for n in range(1600)
    )
    run = replace(_report(1600), steps=steps)
    write_comparison(
        tmp_path / "page.html", title="", verdict="", table=[], runs=[("", run)], environment={}
    )
    rects = [a for tag, a in _Parsed((tmp_path / "page.html").read_text()).tags if tag == "rect"]
    bars = {(a.get("fill"), a["y"], a["height"]) for a in rects}
    assert bars == {
        (None, "0", "70.0"),  # busy
        (CAUSE_COLORS["decode"], "80.0", "20.0"),
        (CAUSE_COLORS["storage"], "70.0", "10.0"),
    }


def test_stages_without_queues_are_shown(tmp_path: Path) -> None:
    run = replace(_report(3), edges=())
    write_comparison(
        tmp_path / "page.html", title="", verdict="", table=[], runs=[("", run)], environment={}
    )
    assert "50 %" in _Parsed((tmp_path / "page.html").read_text()).words


def test_runs_share_one_scale(tmp_path: Path) -> None:
    rects = [a for tag, a in _Parsed(_page(tmp_path, 10, 20)).tags if tag == "rect"]
    widths = [float(str(a["width"])) for a in rects if "fill" in a]
    assert sum(widths[:10]) == pytest.approx(500, rel=0.01)
    assert sum(widths[10:]) == pytest.approx(1000, rel=0.01)


def test_a_cause_with_a_hostile_name_is_only_a_word(tmp_path: Path) -> None:
    run = replace(_report(0), causes={HOSTILE: 0.25})
    write_comparison(
        tmp_path / "page.html", title="", verdict="", table=[], runs=[("", run)], environment={}
    )
    page = (tmp_path / "page.html").read_text()
    assert "script" not in {tag for tag, _ in _Parsed(page).tags} and "<script>alert" not in page


def test_a_run_without_steps_says_so(tmp_path: Path) -> None:
    assert "no steps were measured" in _page(tmp_path, 0)

"""The page in a real browser: it runs, draws, zooms, and shows a million steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.chromium import CHROMIUM, Page, chromium
from fakes.profiled import history_of, report_of

from iopipe.meter.history import History
from iopipe.report import write_html
from iopipe.report.style import CAUSE_COLORS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror=stolen=1>\"'&"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def _written(folder: Path, history: History, **changes: Any) -> Path:
    path = folder / "report.html"
    write_html(report_of(history, **changes), history, path)
    return path


def _view(page: Page) -> tuple[float, float]:
    page.drawn()
    drawn = page.evaluate("(({from, to}) => [from, to])(document.getElementById('steps').dataset)")
    return float(drawn[0]), float(drawn[1])


def _box(page: Page, name: str) -> tuple[float, float, float, float]:
    page.evaluate(f"document.getElementById('{name}').scrollIntoView()")
    box = page.evaluate(
        f"(({{x, y, width, height}}) => [x, y, width, height])"
        f"(document.getElementById('{name}').getBoundingClientRect())"
    )
    return box[0], box[1], box[2], box[3]


def _num_pixels(page: Page, name: str, color: str) -> int:
    """Of exactly this colour on a canvas."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return int(
        page.evaluate(
            f"""(() => {{ const canvas = document.getElementById('{name}');
            const {{ data }} = canvas.getContext('2d')
                .getImageData(0, 0, canvas.width, canvas.height);
            let found = 0;
            for (let at = 0; at < data.length; at += 4) found +=
                data[at] === {red} && data[at + 1] === {green} && data[at + 2] === {blue};
            return found; }})()"""
        )
    )


def test_it_draws_without_complaint_and_loads_nothing_else(page: Page, tmp_path: Path) -> None:
    path = _written(tmp_path, history_of(6000, spike=1000))
    page.open(path)
    assert page.complaints == []
    assert page.loaded == [path.resolve().as_uri()]
    for name in ("steps", "overview"):
        for cause in ("decode", "storage"):
            assert _num_pixels(page, name, CAUSE_COLORS[cause]) > 0
        assert _num_pixels(page, name, CAUSE_COLORS["collate"]) == 0
    assert page.evaluate("document.querySelectorAll('.bars svg').length") == 4 + 4 + 10


def test_idle_shares_are_drawn_to_scale(page: Page, tmp_path: Path) -> None:
    history = History()
    for n in range(400):
        history.add(n * 10**7, (n + 1) * 10**7, {"decode": 25 * 10**5, "queue": 50 * 10**5})
    page.open(_written(tmp_path, history))
    decode, queue, busy = (
        _num_pixels(page, "overview", color)
        for color in (CAUSE_COLORS["decode"], CAUSE_COLORS["queue"], "#e1e5ea")
    )
    total = decode + queue + busy
    assert decode / total == pytest.approx(0.25, abs=0.04)
    assert queue / total == pytest.approx(0.5, abs=0.06)


def test_wheel_keys_and_buttons_zoom(page: Page, tmp_path: Path) -> None:
    page.open(_written(tmp_path, history_of(6000)))
    whole = _view(page)
    x, y, width, height = _box(page, "steps")
    page.wheel(x + 0.75 * width, y + height / 2, -400)
    left, right = _view(page)
    assert right - left == pytest.approx(whole[1] / 2.71828, rel=0.01)
    under = (0.75 * width - 62) / (width - 62)  # what lay under the pointer stays there
    assert left + under * (right - left) == pytest.approx(under * whole[1], rel=0.01)
    page.evaluate("document.getElementById('in').click()")
    nearer = _view(page)
    assert nearer[1] - nearer[0] == pytest.approx((right - left) / 2)
    page.evaluate(
        "document.getElementById('steps').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    )
    assert _view(page)[0] == pytest.approx(nearer[0] + 0.1 * (nearer[1] - nearer[0]))
    page.evaluate("document.getElementById('all').click()")
    assert _view(page) == whole
    assert page.complaints == []


def test_dragging_moves_and_stops_at_the_ends(page: Page, tmp_path: Path) -> None:
    page.open(_written(tmp_path, history_of(6000)))
    whole = _view(page)
    page.evaluate("document.getElementById('in').click()")
    before = _view(page)
    x, y, width, height = _box(page, "steps")
    middle = y + height / 2
    page.drag((x + 0.6 * width, middle), (x + 0.5 * width, middle))
    moved = (before[1] - before[0]) * 0.1 * width / (width - 62)
    assert _view(page)[0] == pytest.approx(before[0] + moved, rel=0.02)
    for _ in range(2):
        page.drag((x + 0.9 * width, middle), (x + 0.1 * width, middle))
    assert _view(page)[1] == pytest.approx(whole[1])


def test_a_step_under_the_pointer_is_told(page: Page, tmp_path: Path) -> None:
    history = history_of(300, spike=150)
    page.open(_written(tmp_path, history))
    timeline = history.timeline()
    place = (timeline.started_ns[150] + timeline.ended_ns[150]) / 2 - timeline.started_ns[0]
    share = place / (timeline.ended_ns[-1] - timeline.started_ns[0])
    x, y, width, height = _box(page, "steps")
    page._mouse("mouseMoved", x + 62 + share * (width - 62), y + height / 4)
    told = page.evaluate("document.getElementById('readout').textContent")
    assert told.startswith("step 150 at ") and "idle: storage 400 ms" in told


def test_hostile_words_stay_words(page: Page, tmp_path: Path) -> None:
    stage = {"name": HOSTILE, "threads": 1, "busy": 0.5, "blocked": 0.1, "idle": 0.4}
    change = {"change": HOSTILE, "samples_per_second": 2.0, "low": 1.0, "high": 3.0, "bound": 2.0}
    history = History(causes=[HOSTILE, "decode"])
    for n in range(50):
        history.add(n * 1000, n * 1000 + 900, {HOSTILE: 300})
    path = tmp_path / "report.html"
    hostile = {
        **report_of(history, stages=[stage], what_if=[change], verdict=HOSTILE)
        | {"environment": {HOSTILE: HOSTILE}, "causes": {HOSTILE: 0.3}, "low_confidence": HOSTILE}
    }
    write_html(hostile, history, path, title=HOSTILE)
    page.open(path)
    assert page.complaints == [] and page.loaded == [path.resolve().as_uri()]
    assert page.evaluate("typeof window.stolen") == "undefined"
    assert page.evaluate("document.querySelector('.verdict').textContent") == HOSTILE
    assert HOSTILE in page.evaluate("document.getElementById('readout').textContent")


def test_a_script_that_was_put_in_does_not_run(page: Page, tmp_path: Path) -> None:
    path = _written(tmp_path, history_of(50))
    text = path.read_text()
    path.write_text(text.replace("</body>", "<script>window.stolen = 1</script></body>"))
    page.open(path)
    assert page.evaluate("typeof window.stolen") == "undefined"
    assert any("Content Security Policy" in str(event) for event in page.complaints)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_phone_and_desk_in_light_and_dark(
    page: Page, tmp_path: Path, width: int, dark: bool
) -> None:
    page.open(_written(tmp_path, history_of(3000)), width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 23, 29)" if dark else "rgb(255, 255, 255)")
    assert _num_pixels(page, "overview", "#2b343e" if dark else "#e1e5ea") > 0
    if folder := os.environ.get("IOPIPE_SCREENSHOTS"):
        page.screenshot(Path(folder, f"report-{width}-{'dark' if dark else 'light'}.png"))


def test_a_page_with_hardly_any_width_draws_what_it_can(page: Page, tmp_path: Path) -> None:
    """In a frame that is not shown yet, for instance."""
    page.open(_written(tmp_path, history_of(300)), width=60)
    assert page.complaints == []


def test_a_million_steps_open_and_their_one_spike_is_seen(
    page: Page, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = _written(tmp_path, history_of(1_000_000, spike=123_456))
    assert path.stat().st_size < 3e6
    started = time.perf_counter()
    page.open(path)
    seconds = time.perf_counter() - started
    longest = page.evaluate("document.getElementById('steps').dataset.longest")
    assert float(longest) >= 400e6
    assert page.complaints == []
    record_property("open_seconds", seconds)


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_hardly_any_steps_are_drawn_too(page: Page, tmp_path: Path, num_steps: int) -> None:
    page.open(_written(tmp_path, history_of(num_steps)))
    assert page.complaints == []
    words = page.evaluate("document.body.textContent")
    assert ("no steps were measured" in words) == (num_steps == 0)

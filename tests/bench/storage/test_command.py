"""The command from end to end: files, pages, comparisons, one sentence, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fakes.chromium import CHROMIUM, chromium
from fakes.object_server import ObjectServer

import iopipe
from iopipe.bench.storage import quick
from iopipe.bench.storage.curves import Axis, Series, curves
from iopipe.bench.storage.html import write_page
from iopipe.bench.storage.quick import _choose
from iopipe.bench.storage.sweep import Effort
from iopipe.cli import main

FAST = ("--size", "1MiB", "--seconds", "0.01", "--block-sizes", "4KiB,64KiB")
HOSTILE = "</style><script>alert(1)</script>\"'&"


def _bench(*arguments: object) -> int:
    return main(["bench", "storage", *map(str, arguments)])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one sweep wrote: a.json, a.html, and out.txt, which it printed."""
    tmp_path = tmp_path_factory.mktemp("results")
    folder = tmp_path / "data"
    folder.mkdir()
    with (tmp_path / "out.txt").open("w") as out, contextlib.redirect_stdout(out):
        code = _bench(
            folder, *FAST, "--backends", "posix,direct", "--cache", "warm", "--queue-depths",
            "1,2", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html",
        )  # fmt: skip
    assert code == 0
    assert list(folder.iterdir()) == []
    return tmp_path


def test_from_arguments_to_files(results: Path) -> None:
    content = json.loads((results / "a.json").read_text())
    assert content["schema"] == 1
    assert {"kernel", "filesystem", "device", "scheduler", "read_ahead_kib", "versions"} <= set(
        content["environment"]
    )
    assert {
        "backend", "active_path", "access", "block_bytes", "queue_depth", "direct", "destination",
        "cache", "gbps", "iops", "p50_us", "p95_us", "p99_us", "p99_9_us", "max_us",
        "cpu_seconds_per_gb", "transfer", "littles_law_ratio",
    } <= set(content["rows"][0])  # fmt: skip
    posix = [row for row in content["rows"] if row["backend"] == "posix"]
    assert len(posix) == 3 * 2 * 2 * 2  # repeats, blocks, depths, accesses
    assert {row["cache"] for row in posix} == {"warm"}
    assert all(row["gbps"] > 0 and row["resident_before"] == 1 for row in posix)
    assert {one["what"].rpartition(": ")[2] for one in content["skipped"]} >= {
        "destination pinned",
        "destination gpu",
    }
    assert str(results) not in content["command"]
    shown = (results / "out.txt").read_text()
    assert "posix" in shown and "skipped" in shown and "no CUDA device" in shown


def test_two_files_are_compared(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((results / "a.json").read_text())
    for row in content["rows"]:
        row["gbps"] *= 100
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert _bench("--compare", results / "a.json", tmp_path / "b.json") == 0
    shown = capsys.readouterr().out
    assert "better" in shown and "worse" not in shown


def test_a_file_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_workload = json.dumps({"schema": 1, "rows": [{"workload": "unet3d", "gbps": 1.0}]})
    for text in ("{}", "no json", of_workload):
        (tmp_path / "a").write_text(text)
        assert _bench("--compare", tmp_path / "a", tmp_path / "a") == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bench(tmp_path, *FAST, "--backends", "posix", "--cache", "warm", "--verify") == 0
    assert "are as they should be" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give at least one folder"),
        (("--quick", "--workload", "images", "x"), "do not go together"),
        (("--quick", "--verify", "x"), "--verify has no effect"),
        (("--sample-bytes", "4KiB", "x"), "--sample-bytes has no effect"),
        (("--quick", "--seconds", "2", "x"), "--seconds has no effect"),
        (("--accelerator", "a100", "x"), "--accelerator has no effect"),
        (("--compare", "a", "b", "x"), "a target has no effect"),
        (("/nowhere/at/all",), "check the path"),
        (("--backends", "gds", "--destinations", "host", "."), "no job is left"),
        (("--verify", "memory://nothing"), "memory://nothing"),
        (("--repeats", "0", "."), "repeats=0"),
        (("--block-sizes", "2GiB", "."), "block size"),
        (("--workload", "retinanet", "."), "give --accelerator b200"),
    ],
)
def test_what_is_refused_is_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert _bench(*arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--backends", "turbo"), ("--block-sizes", "many"), ("--access", ",")):
        with pytest.raises(SystemExit):
            _bench(".", *arguments)
    assert "turbo" in capsys.readouterr().err


def test_nothing_measured_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bench(tmp_path, *FAST, "--destinations", "pinned") == 1
    assert "nothing of what was asked for" in capsys.readouterr().err


def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "iopipe.cli", "bench", "storage", str(tmp_path)]
    options = ("--size", "8MiB", "--backends", "posix", "--cache", "warm", "--seconds", "100")
    more = ("--budget", "1000", "--queue-depths", "4", "--block-sizes", "4KiB")
    with subprocess.Popen(
        [*command, *options, *more], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the file is there, the sweep begins
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert said.splitlines()[-1] == "iopipe: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_read_by_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = ObjectServer()
    try:
        server.objects["a/b.tar"] = os.urandom(1 << 20)
        url = f"{server.url}a/b.tar?signature=secret"
        code = _bench(
            server.url + "a/b.tar", "--block-sizes", "64KiB", "--seconds", "0.05", "--repeats", "1",
            "--json", tmp_path / "a.json",
        )  # fmt: skip
        assert code == 0
        content = json.loads((tmp_path / "a.json").read_text())
        assert {row["backend"] for row in content["rows"]} == {"objects"}
        assert {row["cache"] for row in content["rows"]} == {"remote"}
        assert {one["reason"].partition(":")[0] for one in content["skipped"]} == {
            "there is no CUDA device for this process"
        }
        assert _bench(url.replace("b.tar", "none.tar")) == 1
        shown = capsys.readouterr()
        assert "secret" not in shown.out + shown.err
        assert _bench("--verify", server.url + "a/b.tar") == 1
        assert "--verify needs local files" in capsys.readouterr().err
    finally:
        server.close()


# ---- one sentence --------------------------------------------------------------------


def _dataset(folder: Path) -> None:
    with iopipe.DatasetWriter(folder, max_samples=10) as writer:
        for number in range(30):
            writer.write({"__key__": str(number), "bin": os.urandom(9000)})


def test_quick_answers_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _dataset(tmp_path / "data")
    before = sorted(tmp_path.rglob("*.tar"))
    monkeypatch.setattr(quick, "_EFFORT", Effort(seconds=0.01, repeats=1, budget_seconds=5))
    monkeypatch.setattr(quick.quick, "__kwdefaults__", {"effort": quick._EFFORT})
    assert _bench("--quick", tmp_path / "data", "--json", tmp_path / "q.json") == 0
    shown = capsys.readouterr().out
    total = sum(path.stat().st_size for path in before)
    assert re.fullmatch(
        rf"\S+ can feed [\d,]+ samples/s of {total / 30 / 1e3:,.1f} kB \([\d.]+ GB/s, random reads "
        r"from [a-z ]+\): use prefer='\w+' and \w+=\d+\.\n",
        shown,
    )
    content = json.loads((tmp_path / "q.json").read_text())
    assert content["samples_per_second"] > 0 and content["rows"]


def test_quick_needs_to_know_the_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 1000)
    assert _bench("--quick", tmp_path / "a.tar") == 1
    assert "give --sample-bytes" in capsys.readouterr().err


def test_the_default_is_named_where_nothing_is_faster() -> None:
    assert _choose({("direct", 4): 1.0, ("posix", 16): 0.97, ("posix", 64): 0.98}) == ("posix", 16)
    assert _choose({("direct", 4): 1.0, ("direct", 16): 1.02, ("posix", 4): 0.5}) == ("direct", 4)


# ---- the page ------------------------------------------------------------------------


class _Parsed(HTMLParser):
    """Checks that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_nests_and_holds_every_picture(results: Path) -> None:
    page = (results / "a.html").read_text()
    parsed = _Parsed(page)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)
    text = " ".join(parsed.words)
    for title in ("against queue depth", "against block size", "p99 latency", "roofline"):
        assert title in text
    assert "Not measured" in text and "no CUDA device" in text


def test_hostile_words_are_only_words(results: Path, tmp_path: Path) -> None:
    content = json.loads((results / "a.json").read_text())
    for row in content["rows"]:
        row.update(target=HOSTILE, backend=HOSTILE)
    content["environment"]["device"] = HOSTILE
    content["command"] = HOSTILE
    write_page(tmp_path / "h.html", content)
    parsed = _Parsed((tmp_path / "h.html").read_text())
    assert "script" not in parsed.tags
    assert HOSTILE in parsed.words


def test_curves_put_points_in_their_places() -> None:
    axis = Axis(label="x", write=str, log=2)
    linear = Axis(label="y", write=str)
    drawn = curves(
        [Series(name="a", points=[(1, 1.0), (4, 2.0)], look=0)], x=axis, y=linear, label="l"
    )
    found = re.findall(r'mark-of s0" transform="translate\(([\d.]+) ([\d.]+)\)"', drawn)
    *places, _ = [(float(x), float(y)) for x, y in found]  # the last one is the legend's
    assert places == [(84.0, 145.0), (624.0, 14.0)]  # 1.0 is half of the way up
    assert curves([], x=axis, y=linear, label="l") == ""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_it_is_drawn_in_a_browser(results: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as page:
        for dark in (False, True):
            page.open(results / "a.html", dark=dark)
            assert page.complaints == []
            assert page.loaded == [(results / "a.html").resolve().as_uri()]
            colors = page.evaluate(
                "[...document.querySelectorAll('svg.curves .line')]"
                ".map((line) => getComputedStyle(line).stroke)"
            )
            assert len(colors) > 10 and "none" not in colors
            assert len(set(colors)) >= 2
            widths: Any = page.evaluate(
                "[...document.querySelectorAll('svg.curves')]"
                ".map((one) => one.getBoundingClientRect().width)"
            )
            assert min(widths) > 300

"""What the benchmarks ask for is asked for at once, not when everything was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import iopipe
from iopipe.bench import dataloader, packing, resume, tokenise
from iopipe.bench.photographs import jpegs_in


@pytest.mark.parametrize(
    ("main", "given"),
    [
        (dataloader.main, ["--images", "here"]),
        (packing.main, ["--texts", "here"]),
        (resume.main, []),
        (tokenise.main, ["--texts", "here"]),
    ],
)
def test_where_results_go_is_asked_for(
    main: Callable[[], object],
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *given])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--json" in capsys.readouterr().err.splitlines()[-1]


def test_jpegs_are_found_by_their_suffix(tmp_path: Path) -> None:
    for name in ("b.JPEG", "a.jpg", "c.png"):
        (tmp_path / name).touch()
    assert [path.name for path in jpegs_in(tmp_path)] == ["a.jpg", "b.JPEG"]
    for name in ("b.JPEG", "a.jpg"):
        (tmp_path / name).unlink()
    with pytest.raises(iopipe.NotFoundError, match="no \\.jpg or \\.jpeg files"):
        jpegs_in(tmp_path)

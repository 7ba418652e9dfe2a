"""Verdicts on constructed distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from iopipe.bench.storage.compare import compare, judge, print_comparison, spread


def _content(speeds: dict[str, list[float]], **environment: Any) -> dict[str, Any]:
    rows = [
        {
            "target": "t", "backend": backend, "access": "random", "block_bytes": 4096,
            "queue_depth": 1, "direct": False, "destination": "host", "cache": "warm", "batch": 1,
            "repeat": repeat, "gbps": gbps,
        }
        for backend, some in speeds.items()
        for repeat, gbps in enumerate(some)
    ]  # fmt: skip
    return {"schema": 1, "environment": environment, "rows": rows}


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ([1.2, 1.21, 1.19], "better"),
        ([0.8, 0.81, 0.79], "worse"),
        ([1.0, 1.01, 0.99], "no difference shown"),
        ([1.01, 1.012, 1.014], "no difference shown"),  # below the least floor
        ([0.5, 1.5, 2.5], "no difference shown"),  # its own noise is larger
    ],
)
def test_verdicts(second: list[float], verdict: str) -> None:
    (row,) = compare(_content({"posix": [1.0, 1.01, 0.99]}), _content({"posix": second})).rows
    assert row.verdict == verdict


def test_the_usual_noise_counts_where_three_runs_agree_by_luck() -> None:
    noisy = {name: [1.0, 1.4, 0.6] for name in "abcd"}
    first = _content({**noisy, "posix": [1.0, 1.0, 1.0]})
    second = _content({**noisy, "posix": [1.2, 1.2, 1.2]})
    row = next(r for r in compare(first, second).rows if r.job["backend"] == "posix")
    assert row.floor == pytest.approx(0.4)
    assert row.verdict == "no difference shown"


def test_equal_distributions_are_rarely_called_different() -> None:
    draws = np.random.default_rng(0)
    verdicts = []
    for _ in range(500):
        first, second = draws.normal(1, 0.05, (2, 3)).tolist()
        floor = max(0.02, spread(first) / 2, spread(second) / 2)
        verdicts.append(judge(first, second, floor=floor)[0])
    assert sum(verdict != "no difference shown" for verdict in verdicts) < 0.1 * 500


def test_too_few_runs_show_nothing() -> None:
    found = compare(_content({"posix": [1.0]}), _content({"posix": [9.0]})).rows[0]
    assert found.verdict == "no difference shown"
    assert "--repeats 3" in found.reason


def test_what_differs_besides_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    first = _content({"posix": [1, 1, 1], "direct": [1, 1, 1]}, kernel="6.1", date="a")
    second = _content({"posix": [2, 2, 2]}, kernel="6.2", date="b")
    found = compare(first, second)
    assert found.differences == ["kernel: 6.1 and 6.2"]
    assert (found.only_first, found.only_second) == (1, 0)
    print_comparison(Console(width=200), found)
    shown = capsys.readouterr().out
    assert "better" in shown and "kernel: 6.1 and 6.2" in shown and "only in A: 1 jobs" in shown

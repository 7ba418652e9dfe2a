"""The history against a plain list of steps: nothing lost, and the end exact."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import DataError, PipelineError
from iopipe.meter.distribution import RELATIVE_ERROR, Distribution
from iopipe.meter.figures import NOT_INPUT
from iopipe.meter.history import CAUSES, History
from iopipe.meter.timeline import QUANTILES, Timeline
from iopipe.protocols import Int64Array

Steps = list[tuple[int, int, dict[str, int]]]


@st.composite
def some_steps(draw: st.DrawFn) -> Steps:
    """Up to 3000 steps with pauses between some; drawn from a seed, since lists are slow."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_steps = draw(st.integers(0, 3000))
    clock_ns, steps = 0, []
    for _ in range(num_steps):
        clock_ns += int(rng.integers(0, 5))
        duration = int(rng.pareto(1.5) * 1000)
        names = rng.choice(CAUSES, size=rng.integers(0, 4), replace=False)
        causes = {str(name): int(rng.integers(0, duration // 4 + 1)) for name in names}
        steps.append((clock_ns, clock_ns + duration, causes))
        clock_ns += duration
    return steps


def _table(steps: Steps) -> Int64Array:
    rows = [[b - a, *(causes.get(name, 0) for name in CAUSES)] for a, b, causes in steps]
    return np.array(rows, np.int64).reshape(-1, 1 + len(CAUSES))


def _filled(steps: Steps, **options: Any) -> History:
    history = History(**options)
    for step in steps:
        history.add(*step)
    return history


@given(some_steps(), st.integers(1, 300), st.integers(1, 20).map(lambda n: 2 * n))
def test_buckets_are_what_a_list_of_steps_gives(
    steps: Steps, num_recent: int, num_buckets: int
) -> None:
    history = _filled(steps, num_recent=num_recent, num_buckets=num_buckets)
    timeline = history.timeline()
    table = _table(steps)
    assert history.num_steps == timeline.num_steps == len(steps)
    first = 0
    for n, count in enumerate(timeline.counts.tolist()):
        part, rows = steps[first : first + count], table[first : first + count]
        assert timeline.started_ns[n] == part[0][0] and timeline.ended_ns[n] == part[-1][1]
        assert timeline.sums[n].tolist() == rows.sum(axis=0).tolist()
        assert timeline.lowest[n].tolist() == rows.min(axis=0).tolist()
        assert timeline.highest[n].tolist() == rows.max(axis=0).tolist()
        first += count
    exact = min(num_recent, len(steps))
    assert timeline.counts[len(timeline.counts) - exact :].tolist() == [1] * exact


@given(some_steps())
def test_quantiles_are_those_of_all_steps(steps: Steps) -> None:
    timeline = _filled(steps, num_recent=50, num_buckets=8).timeline()
    table = _table(steps)
    stalling = [0, *(n + 1 for n, name in enumerate(CAUSES) if name not in NOT_INPUT)][1:]
    for found, values in (
        (timeline.step_ms, table[:, 0]),
        (timeline.stall_ms, table[:, stalling].sum(axis=1)),
    ):
        wanted = (
            np.quantile(values, QUANTILES, method="inverted_cdf") / 1e6
            if steps
            else np.zeros(len(QUANTILES))
        )
        np.testing.assert_allclose(found, wanted, rtol=1.001 * RELATIVE_ERROR)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=60), st.floats(0, 1))
def test_one_quantile_against_a_sorted_list(values: list[int], share: float) -> None:
    distribution = Distribution()
    distribution.add(np.array(values, np.int64))
    wanted = float(np.quantile(values, share, method="inverted_cdf"))
    assert distribution.quantiles(share) == pytest.approx(wanted, rel=1.001 * RELATIVE_ERROR)


def test_a_spike_of_one_step_in_a_million_is_seen_in_a_megabyte() -> None:
    history = History()
    for n in range(1_000_000):
        spike = 70_000_000 if n == 123_456 else 0
        start = n * 10_000 + (70_000_000 if n > 123_456 else 0)
        history.add(start, start + 9_000 + spike, {"storage": spike} if spike else {})
    timeline = history.timeline()
    assert timeline.num_steps == 1_000_000
    assert timeline.highest[:, 0].max() == 70_009_000
    assert timeline.highest[:, 1 + CAUSES.index("storage")].max() == 70_000_000
    assert 1024 + 4096 <= len(timeline.counts) <= 2048 + 4096 + 256
    held = len(history._ring) + sum(
        getattr(history._buckets, name).nbytes
        for name in ("counts", "started", "ended", "sums", "lowest", "highest")
    )
    assert held < 1.2e6


@given(some_steps())
def test_json_gives_the_same_back(steps: Steps) -> None:
    timeline = _filled(steps, num_recent=20, num_buckets=4).timeline()
    content = json.loads(json.dumps(timeline.to_json()))
    again = Timeline.from_json(content)
    assert again.to_json() == content
    assert again.num_steps == len(steps) and again.step_ms == timeline.step_ms
    for name in again.causes:
        column = 1 + again.causes.index(name)
        wanted = timeline.sums[:, 1 + timeline.causes.index(name)]
        assert again.sums[:, column].tolist() == wanted.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"counts": [1, 2]},
        {"counts": ["a"]},
        {"counts": [1.5]},
        {"sums": [[1]]},
        {"causes": None},
        {"started_ns": [2**70]},
        {"step_ms": [1.0]},
        {"step_ms": [float("nan")] * 5},
        {"stall_ms": [1.0, 1.0, 1.0, 1.0, "x"]},
        {"counts": [0]},
    ],
)
def test_a_file_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    content = _filled([(0, 5, {"decode": 2})]).timeline().to_json()
    Timeline.from_json(content)
    with pytest.raises(DataError, match="steps"):
        Timeline.from_json({**content, **change})


def test_an_empty_history_is_not_false() -> None:
    assert History(), "who asks whether there is one must not lose the first step"


def test_an_unknown_cause_is_named() -> None:
    with pytest.raises(PipelineError, match=r"unknown causes \['tape'\]"):
        History().add(0, 1, {"tape": 1})


@pytest.mark.parametrize("options", [{"num_recent": 0}, {"num_buckets": 0}, {"num_buckets": 3}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="even number"):
        History(**options)

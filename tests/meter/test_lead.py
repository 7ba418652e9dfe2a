"""Host run-ahead, read from two clocks that know nothing of each other."""

from __future__ import annotations

import pytest
from fakes.device import MS, Training, VirtualDevice

from iopipe.meter.lead import RunAhead


def test_the_smallest_distance_seen_is_the_clocks_own() -> None:
    run_ahead = RunAhead()
    run_ahead.restart(1000, 0)  # the stream was busy for 30 more, which nobody knows yet
    assert run_ahead.at_request(1100, 120) == 20
    assert run_ahead.at_request(1200, 170) == 0
    assert run_ahead.at_request(1300, 290) == 20


def test_work_of_others_is_no_drift() -> None:
    run_ahead = RunAhead()
    run_ahead.restart(0, 0)
    run_ahead.at_idle(10_000 * MS, 10_005 * MS)  # 500 parts in a million
    assert run_ahead.at_request(10_010 * MS, 10_015 * MS) == 5 * MS


class _FastClock(VirtualDevice):
    """A stream whose clock gains 80 parts in a million."""

    def elapsed_ns(self, start: int, end: int) -> int:
        return round((end - start) * (1 + 80e-6))


def test_drift_is_no_lead_in_a_run_that_starves() -> None:
    training = Training(load=lambda number: 15 * MS, synchronizes=True, device=_FastClock())
    meter = training.run(400)  # 6.4 s: half a millisecond of drift
    assert meter.report().lead_ms == pytest.approx(0, abs=0.01)

"""Injected truths, the same table twice: exact on a virtual device, within bounds on a real one."""

from __future__ import annotations

import pytest
from fakes.rig import COPY, VirtualRig

from iopipe.bench.injected_cases import CASES, NUM_STEPS, run_case

MS = 1_000_000
GAP = {"pinned copy, .item() each step": COPY, "pageable copy in the loop": COPY}


@pytest.mark.parametrize("name", CASES)
def test_on_a_virtual_device_every_gap_is_charged_to_the_nanosecond(name: str) -> None:
    case = CASES[name]
    outcome = run_case(case, VirtualRig())
    assert outcome.truth_ns
    if case.inside:
        assert not sum(outcome.elsewhere_ns)
        assert outcome.recoverable_ns == 0
        return
    assert outcome.charged_ns == outcome.truth_ns
    assert not sum(outcome.elsewhere_ns)
    expected = [GAP.get(name, 4 * MS)] * len(outcome.truth_ns)
    if name == "epoch boundary":
        expected = [8 * MS if number % 10 == 0 else 0 for number in range(1, NUM_STEPS)]
    assert outcome.truth_ns == expected


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_on_a_real_device_it_is_what_the_profiler_saw(name: str) -> None:
    from iopipe.bench.injected import CudaRig, judged

    with CudaRig() as rig:
        row = judged(name, CASES[name], run_case(CASES[name], rig))
    assert row["is_right_cause"], row
    assert row["error_of_the_mean_us"] <= row["tolerance_us"], row
    assert row["share_of_gaps_within"] >= 0.9, row

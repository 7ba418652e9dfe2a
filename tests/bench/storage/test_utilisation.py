"""AU beside values that were computed by hand from DLIO's formula, and the search for N."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.bench.storage.training import batches, largest_passing
from iopipe.bench.storage.utilisation import Epoch, mean_utilisation, samples_per_second
from iopipe.bench.storage.workloads import WORKLOAD_NAMES, workload_of
from iopipe.errors import PipelineError


def _epoch(
    compute: list[float], load: list[float], start: float = 10.0, extra: float = 0.0
) -> Epoch:
    end = start + sum(compute) + sum(load) + extra
    return Epoch(start=start, end=end, compute=compute, load=load)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        # Loads are waited for: 3 x 0.5 of computation in 3 x (0.5 + 0.25); the first step is out.
        (_epoch([0.5] * 4, [2.0, 0.25, 0.25, 0.25]), 1.5 / 2.25),
        # Never a wait but for the first batch.
        (_epoch([0.5] * 4, [7.0, 0, 0, 0]), 1.0),
        # The loader's end counts against it: 1.5 / (1.5 + 0.5).
        (_epoch([0.5] * 4, [0, 0, 0, 0], extra=0.5), 0.75),
        # One step is left: 0.1 / (0.1 + 0.3).
        (_epoch([0.2, 0.1], [0.4, 0.3]), 0.25),
    ],
)
def test_utilisation(epoch: Epoch, expected: float) -> None:
    assert epoch.utilisation() == pytest.approx(expected)


def test_one_step_has_no_utilisation() -> None:
    with pytest.raises(PipelineError, match="give 2 or more"):
        _epoch([1.0], [1.0]).utilisation()


def test_means_over_ranks_and_epochs() -> None:
    full, half = _epoch([1.0] * 3, [0.0] * 3), _epoch([1.0] * 3, [1.0] * 3)
    mean, deviation = mean_utilisation([[full, half], [full, full]])
    # Epoch 1: (1 + 1) / 2; epoch 2: (0.5 + 1) / 2.
    assert mean == pytest.approx((1 + 0.75) / 2)
    assert deviation == pytest.approx(0.125)


def test_samples_a_second_count_the_first_step() -> None:
    ranks = [[_epoch([1.0] * 4, [1.0, 0, 0, 0])], [_epoch([1.0] * 4, [0.5, 0, 0, 0])]]
    assert samples_per_second(ranks, batch_size=10) == pytest.approx(2 * 4 * 10 / 5)


@given(st.integers(0, 40))
def test_the_largest_number_is_found(limit: int) -> None:
    asked = []

    def passes(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert largest_passing(passes, most=32) == min(limit, 32)
    assert len(asked) == len(set(asked)) <= 12
    assert all(1 <= number <= 32 for number in asked)


def test_batches_are_shuffled_and_go_round() -> None:
    plans = batches(10, 3, 2, 3, seed=1)
    assert [len(plan) for plan in plans] == [3, 3]
    together = [index for step in range(3) for rank in range(2) for index in plans[rank][step]]
    assert sorted(together[:10]) == list(range(10))
    assert len(set(together[10:])) == 8
    assert together[:10] != list(range(10))


def test_demands_are_those_of_the_reference() -> None:
    """GB/s of one accelerator at 100 %, from sample bytes, batch and seconds."""
    expected = {("unet3d", "a100"): 1.61, ("unet3d", "h100"): 3.18, ("unet3d", "b200"): 6.34,
                ("resnet50", "a100"): 0.105, ("resnet50", "h100"): 0.205,
                ("cosmoflow", "a100"): 0.513, ("cosmoflow", "h100"): 0.808,
                ("retinanet", "b200"): 0.163}  # fmt: skip
    for (name, accelerator), gbps in expected.items():
        found = workload_of(name, accelerator)  # type: ignore[arg-type]
        assert found.demand_gbps == pytest.approx(gbps, rel=0.01)
    marks = {
        name: workload_of(name, "b200" if name == "retinanet" else "h100").mark
        for name in WORKLOAD_NAMES
    }  # type: ignore[arg-type]
    assert marks == {
        "unet3d": 0.9,
        "retinanet": 0.85,
        "resnet50": 0.9,
        "cosmoflow": 0.7,
        "tokens": 0.9,
        "images": 0.9,
    }


def test_what_there_is_not_is_an_error() -> None:
    with pytest.raises(PipelineError, match="retinanet for h100: give --accelerator b200"):
        workload_of("retinanet", "h100")


def test_sizes_are_drawn_around_the_mean() -> None:
    workload = workload_of("unet3d", "h100")
    sizes = workload.sizes(20_000, seed=0)
    assert sizes.mean() == pytest.approx(workload.sample_bytes, rel=0.02)
    assert sizes.std() == pytest.approx(workload.sample_bytes_deviation, rel=0.03)
    assert sizes.min() >= 1024

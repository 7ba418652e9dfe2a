"""The scores against what they mean, on orders whose score is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from fakes.source import NumberSource, numbers

from iopipe.errors import PipelineError
from iopipe.order import BlockShuffle, FullShuffle, Stored
from iopipe.order.quality import order_quality, read_cost
from iopipe.report.order import UNITS, compare_shuffles, print_shuffles, shuffles_json


@pytest.mark.parametrize("num_samples", [100_000, 10**12])
def test_as_stored(num_samples: int) -> None:
    quality = order_quality(Stored(num_samples=num_samples))
    assert quality.neighbour_distance == pytest.approx(3 / num_samples)
    assert quality.position_correlation == pytest.approx(1)
    assert quality.independent_samples == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("num_samples", [5000, 100_000, 10**12])
def test_as_by_chance(num_samples: int) -> None:
    quality = order_quality(FullShuffle(num_samples=num_samples, seed=3))
    assert quality.neighbour_distance == pytest.approx(1, abs=0.05)
    assert abs(quality.position_correlation) < 0.05
    # The mean square of 256 normal draws deviates by 9 %.
    num_batches = min(num_samples // 256, 256)
    assert quality.independent_samples > 256 * (1 - 4 * math.sqrt(2 / num_batches))


def test_a_batch_of_blocks_is_worth_as_much_as_so_many_blocks() -> None:
    """Windows of 10 whole blocks in one lane, and a batch for each window: 10 draws."""
    sequence = BlockShuffle(
        num_samples=100_000, block_samples=10, window_blocks=10, lanes=1, seed=1
    )
    quality = order_quality(sequence, batch_size=100)
    assert quality.independent_samples == pytest.approx(10, rel=0.4)


def test_reads_of_an_order_are_counted_as_a_naive_reader_counts_them() -> None:
    """All 2000 samples fit into memory: every unit is read once, and those side by side at once."""
    source = NumberSource(2000, sample_bytes=1000)
    for unit in (1024, 4096, 10**6):
        cost = read_cost(source, FullShuffle(num_samples=2000), unit_bytes=unit)
        assert cost.amplification == pytest.approx(math.ceil(2_000_000 / unit) * unit / 2_000_000)
        assert cost.reads_per_1000_samples == 0.5


def test_what_does_not_fit_into_memory_is_read_again() -> None:
    source = NumberSource(10_000, sample_bytes=1000)
    sequence = FullShuffle(num_samples=10_000, seed=2)
    cost = read_cost(source, sequence, unit_bytes=10_000, memory_bytes=100_000)
    used = read = 0
    for start in (0, 4950, 9900):
        ids = sequence.ids(0, np.arange(start, start + 100))
        used += 100_000
        read += 10_000 * len({int(sample) // 10 for sample in ids})
    assert cost.amplification == read / used > 9


def test_the_command_tells_shuffles_apart(capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare_shuffles(numbers(200_000))
    assert [row.name for row in rows] == ["none", "block", "full"]
    mixed = [row.quality.independent_samples for row in rows]
    assert mixed == sorted(mixed) and mixed[0] < 2 and mixed[2] > 200
    reads = [row.costs[-1].amplification for row in rows]
    assert reads == sorted(reads) and reads[0] < 1.1 and reads[2] > 3
    found = json.loads(shuffles_json(rows))
    assert found["rows"][1]["costs"][0]["unit_bytes"] == UNITS["4 KiB"]
    print_shuffles(rows, batch_size=256, memory_bytes=1 << 30)
    assert "blocks of 42" in capsys.readouterr().out


def test_batches_of_nothing_have_no_mix() -> None:
    with pytest.raises(PipelineError, match="batch size is 0"):
        compare_shuffles(numbers(5), batch_size=0)


def test_one_sample_has_no_order() -> None:
    with pytest.raises(PipelineError, match="1 samples have no order"):
        compare_shuffles(numbers(1))

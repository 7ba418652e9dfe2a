"""Sequences of an epoch: one to one, frozen, and as sequential or as mixed as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.order import BlockShuffle, FullShuffle, Stored, permute


def epoch_of(sequence: BlockShuffle, epoch: int = 0) -> np.ndarray:
    return sequence.ids(epoch, np.arange(sequence.num_positions(epoch)))


blocks = st.builds(
    BlockShuffle,
    num_samples=st.integers(0, 300),
    seed=st.integers(0, 3),
    block_samples=st.integers(1, 40),
    window_blocks=st.integers(1, 6),
    lanes=st.integers(1, 9),
)


@given(sequence=blocks, epoch=st.integers(0, 3))
def test_each_sample_stands_at_one_position(sequence: BlockShuffle, epoch: int) -> None:
    assert sorted(epoch_of(sequence, epoch)) == list(range(sequence.num_samples))


@given(sequence=blocks, data=st.data())
def test_parts_agree_with_the_whole(sequence: BlockShuffle, data: st.DataObject) -> None:
    whole = epoch_of(sequence)
    picks = data.draw(st.lists(st.integers(0, max(len(whole) - 1, 0)), max_size=20))
    picks = [pick for pick in picks if pick < len(whole)]
    assert sequence.ids(0, np.array(picks, np.int64)).tolist() == [whole[at] for at in picks]


def naive_block_sequence(sequence: BlockShuffle, block_order: list[int]) -> list[list[set[int]]]:
    """By lists: the samples of each window of each lane, given the order of the blocks."""
    size, num = sequence.block_samples, sequence.num_samples
    samples = [
        sample
        for block in block_order
        for sample in range(block * size, min((block + 1) * size, num))
    ]
    lanes, start = [], 0
    for lane in range(sequence.lanes):
        length = len(range(lane, num, sequence.lanes))
        stretch = samples[start : start + length]
        start += length
        window = sequence.window_blocks * size
        lanes.append([set(stretch[at : at + window]) for at in range(0, length, window)])
    return lanes


@given(sequence=blocks.filter(lambda sequence: sequence.num_samples > 0), epoch=st.integers(0, 2))
def test_windows_hold_what_the_docstring_says(sequence: BlockShuffle, epoch: int) -> None:
    num_blocks = -(-sequence.num_samples // sequence.block_samples)
    order = permute(np.arange(num_blocks), num_blocks, (sequence.seed, epoch))
    found = epoch_of(sequence, epoch)
    for lane, windows in enumerate(naive_block_sequence(sequence, order.tolist())):
        mine = found[lane :: sequence.lanes].tolist()
        for window in windows:
            assert set(mine[: len(window)]) == window
            mine = mine[len(window) :]
        assert not mine


def test_values_are_frozen() -> None:
    """Saved positions depend on these: a change breaks every resumed run."""
    sequence = BlockShuffle(num_samples=23, seed=1, block_samples=4, window_blocks=2, lanes=2)
    assert epoch_of(sequence, epoch=5).tolist() == [
        *(21, 10, 0, 11, 1, 16, 22, 4, 2, 6, 20, 5),
        *(3, 7, 12, 9, 14, 18, 13, 19, 8, 17, 15),
    ]


def test_a_world_that_divides_the_lanes_reads_each_block_once() -> None:
    """But for those that lie across two lanes, and those across two windows."""
    sequence = BlockShuffle(num_samples=100_000, block_samples=50, window_blocks=8, lanes=8)
    whole = epoch_of(sequence)
    readers = [set((whole[rank::4] // 50).tolist()) for rank in range(4)]
    assert sum(map(len, readers)) <= 2000 + 8
    # Within a lane a block's samples come within one window, or two where it lies across.
    lane = whole[0::8] // 50
    for block in np.unique(lane)[:200]:
        (places,) = np.nonzero(lane == block)
        assert np.ptp(places) < 2 * 8 * 50


def test_windows_are_mixed() -> None:
    """Within a window each sample is as likely at one place as at another."""
    sequence = BlockShuffle(num_samples=64_000, block_samples=8, window_blocks=8, lanes=1)
    windows = epoch_of(sequence).reshape(1000, 64)
    ranks = np.argsort(np.argsort(windows, axis=1), axis=1)
    counts = np.zeros((64, 64))
    np.add.at(counts, (np.tile(np.arange(64), (1000, 1)), ranks), 1)
    expected = 1000 / 64
    chi = ((counts - expected) ** 2 / expected).sum()
    freedom = 63 * 63
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)
    assert len({tuple(row) for row in ranks.tolist()}) == 1000


def test_blocks_are_mixed() -> None:
    sequence = BlockShuffle(num_samples=100_000, block_samples=10, window_blocks=4, lanes=4)
    whole = epoch_of(sequence)
    assert abs(np.corrcoef(np.arange(len(whole)), whole)[0, 1]) < 0.05
    assert (epoch_of(sequence, 1) != whole).mean() > 0.99


def test_a_trillion_samples_cost_as_much_as_a_thousand() -> None:
    sequence = BlockShuffle(num_samples=10**12, seed=3, block_samples=40, lanes=64)
    for start in (0, 10**9, 10**12 - 2048):
        ids = sequence.ids(2, np.arange(start, start + 2048))
        assert len(np.unique(ids)) == 2048 and ids.min() >= 0 and ids.max() < 10**12


@pytest.mark.parametrize("name", ["block_samples", "window_blocks", "lanes"])
def test_sizes_are_whole_and_positive(name: str) -> None:
    with pytest.raises(PipelineError, match=f"{name} is 0: give 1 or more"):
        BlockShuffle(**{"num_samples": 5, "block_samples": 2, name: 0})


@pytest.mark.parametrize("kind", [Stored, FullShuffle])
def test_no_negative_number_of_samples(kind: type[Stored]) -> None:
    with pytest.raises(PipelineError, match="num_samples is -1: give 0 or more"):
        kind(num_samples=-1)

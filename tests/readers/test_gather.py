"""Reading many fields at once against reading them one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError
from iopipe.protocols import Store
from iopipe.readers.gather import gather, plan_gathering
from iopipe.storage import MappedStore, PosixStore

SIZES = (3_000_000, 200_000, 1)
_GENERATOR = np.random.default_rng(3)
CONTENTS = [_GENERATOR.integers(0, 256, size, np.uint8).tobytes() for size in SIZES]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    for number, content in enumerate(CONTENTS):
        (folder / str(number)).write_bytes(content)
    return [str(folder / str(number)) for number in range(len(CONTENTS))]


@pytest.fixture(params=[PosixStore, MappedStore])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    opened = request.param()
    yield opened
    opened.close()


@st.composite
def _fields(draw: st.DrawFn) -> tuple[list[int], list[list[int]], list[list[int]]]:
    width = draw(st.integers(1, 3))
    shards, offsets, lengths = [], [], []
    for _ in range(draw(st.integers(0, 20))):
        shard = draw(st.integers(0, len(SIZES) - 1))
        base = draw(st.integers(0, SIZES[shard]))
        row_offsets, row_lengths = [], []
        for _ in range(width):
            near = min(SIZES[shard], base + draw(st.integers(0, 3000)))
            offset = draw(st.sampled_from([base, near, draw(st.integers(0, SIZES[shard]))]))
            length = draw(st.sampled_from([0, 1, 500, 4096, 400_000]))
            row_offsets.append(offset)
            row_lengths.append(min(length, SIZES[shard] - offset))
        shards.append(shard)
        offsets.append(row_offsets)
        lengths.append(row_lengths)
    return shards, offsets, lengths


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(fields=_fields())
def test_every_field_holds_its_bytes(
    paths: list[str],
    store: Store,
    fields: tuple[list[int], list[list[int]], list[list[int]]],
) -> None:
    shards, rows, sizes = fields
    width = len(rows[0]) if rows else 1
    offsets = np.array(rows, np.int64).reshape(-1, width)
    lengths = np.array(sizes, np.int64).reshape(-1, width)
    columns = gather(store, paths, np.array(shards, np.int64), offsets, lengths)
    assert len(columns) == width
    for number, column in enumerate(columns):
        assert [bytes(value) for value in column] == [
            CONTENTS[shard][offset : offset + length]
            for shard, offset, length in zip(
                shards, offsets[:, number].tolist(), lengths[:, number].tolist(), strict=True
            )
        ]


def test_neighbours_are_read_together_in_whatever_order_they_are_asked_for() -> None:
    starts = np.arange(100, dtype=np.int64)[:, None] * 20_000
    lengths = np.full_like(starts, 19_000)
    shards = np.zeros(100, np.int64)
    order = np.random.default_rng(0).permutation(100)
    plan = plan_gathering(shards, starts[order], lengths[order])
    assert len(plan.lengths) == 4
    assert plan.lengths.sum() < 2_000_000
    far = plan_gathering(shards, starts * 10, lengths)
    assert len(far.lengths) == 100


def test_a_short_shard_names_the_first_sample_that_it_lacks(paths: list[str], store: Store) -> None:
    offsets = np.array([[0], [199_999], [199_000], [250_000]], np.int64)
    lengths = np.array([[10], [1], [1001], [5]], np.int64)
    with pytest.raises(DataError, match="became shorter") as caught:
        gather(store, paths, np.array([0, 1, 1, 1]), offsets, lengths)
    assert (caught.value.row, caught.value.shard, caught.value.offset) == (2, paths[1], 199_000)

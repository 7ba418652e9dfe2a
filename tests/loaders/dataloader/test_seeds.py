"""What samples draw, whichever worker fetches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import loaded as data

import iopipe

Make = Callable[..., Any]


def drawn(**options: Any) -> dict[int, float]:
    loader = iopipe.DataLoader(data.Augmented(24), seed=9, batch_size=5, **options)
    return {
        int(index): float(value)
        for batch in loader
        for index, value in zip(batch[0], batch[1], strict=True)
    }


def test_samples_draw_alike_for_any_number_of_workers() -> None:
    expected = drawn()
    assert len(set(expected.values())) == 24
    assert drawn(num_workers=1) == drawn(num_workers=2) == expected
    assert drawn(num_workers=2, shuffle=True) == expected


def test_epochs_draw_differently_and_can_be_gone_back_to() -> None:
    loader = iopipe.DataLoader(data.Augmented(6), seed=9, num_workers=1, persistent_workers=True)
    epochs = [[float(batch[1]) for batch in loader] for _ in range(2)]
    loader.set_epoch(0)
    assert [float(batch[1]) for batch in loader] == epochs[0] != epochs[1]
    loader.close()


def test_threads_draw_from_the_generator_of_the_sample() -> None:
    found = {}
    for mode, num_workers in (("thread", 2), ("process", 2), ("process", 0)):
        loader = iopipe.DataLoader(
            data.Augmented(12, keyed=True), seed=3, num_workers=num_workers, worker_mode=mode
        )  # type: ignore[arg-type]
        found[mode, num_workers] = [(int(index), float(value)) for index, value in loader]
    first = next(iter(found.values()))
    assert all(values == first for values in found.values())
    with pytest.raises(iopipe.PipelineError, match="no sample is being fetched"):
        iopipe.loaders.workers.seeds._here.__dict__.clear()
        iopipe.sample_generator()


def test_ranks_share_a_seeded_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        loader = iopipe.DataLoader(data.Numbers(20), seed=1, shuffle=True, batch_size=5)
        assert len(loader) == 2
        seen += [int(item) for batch in loader for item in batch]
    assert sorted(seen) == [*range(20)]


class OwnState(data.Numbers):
    """Sample i is what the program, or a `worker_init_fn`, has set."""

    mark = -1

    def __getitem__(self, index: int) -> Any:
        return self.mark, self.num


def _mark(worker_id: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    info.dataset.mark = worker_id  # type: ignore[attr-defined]


def test_what_is_set_on_a_seeded_dataset_is_the_datasets(ours: Make) -> None:
    dataset = OwnState(4)
    loader = ours(dataset, seed=1, num_workers=2, worker_init_fn=_mark)
    loader.dataset.num = 6
    assert dataset.num == 6 and len(loader.dataset) == 6
    found = [(int(mark), int(num)) for mark, num in loader]
    assert found == [(0, 6), (1, 6)] * 3
    assert dataset.mark == -1  # each worker has a copy

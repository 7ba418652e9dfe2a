"""`tune` in the drop-in: what is turned shows in no batch."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest
import torch
from fakes import loaded as data

import iopipe
from iopipe.autotune.budget import Budget
from iopipe.loaders.workers.tuned import PREFETCH, WORKERS

BUDGET = Budget(cores=4.0)


def _loader(**options: Any) -> iopipe.DataLoader[Any]:
    defaults: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 7, "num_workers": 2}
    options = {**defaults, **options}
    return iopipe.DataLoader(data.Augmented(400, keyed=options["seed"] is not None), **options)


def _values(batch: Any) -> list[list[float]]:
    return [part.tolist() for part in batch]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("worker_mode", ["process", "thread"])
def test_whatever_is_turned_batches_stay_the_same(worker_mode: str, persistent: bool) -> None:
    expected = [_values(batch) for batch in _twice(_loader(num_workers=0))]
    draws = random.Random(3)
    options = {"worker_mode": worker_mode, "persistent_workers": persistent}
    with _loader(tune=BUDGET, **options) as loader:
        found = []
        for number, batch in enumerate(_twice(loader)):
            found.append(_values(batch))
            knobs = loader.knobs
            assert knobs is not None
            if number % 3 == 0:
                knobs.turn({knob.name: draws.randint(1, 7) for knob in knobs.all()})
        assert loader.tuning().setting.values.keys() == (
            {PREFETCH, WORKERS} if worker_mode == "thread" else {PREFETCH}
        )
    assert found == expected


def _twice(loader: Any) -> Any:
    for _ in range(2):
        yield from loader


def test_out_of_order_nothing_is_lost_or_double() -> None:
    with _loader(tune=BUDGET, worker_mode="thread", in_order=False) as loader:
        seen: list[int] = []
        for number, (indices, _) in enumerate(loader):
            seen += indices.tolist()
            assert loader.knobs is not None
            loader.knobs.turn({PREFETCH: 1 + number % 5, WORKERS: 1 + number % 7})
    assert sorted(seen) == list(range(400))


def test_threads_that_are_added_work_and_those_too_many_get_nothing_to_do() -> None:
    with _loader(tune=BUDGET, worker_mode="thread") as loader:
        iterator = iter(loader)
        next(iterator)
        assert loader.knobs is not None
        loader.knobs.turn({PREFETCH: 3, WORKERS: 5})
        next(iterator)
        assert [worker.is_alive() for worker in iterator._workers] == [True] * 5
        assert len(iterator._task_info) == 15
        loader.knobs.turn({PREFETCH: 1, WORKERS: 2})
        for _ in range(30):
            next(iterator)
        assert len(iterator._task_info) == 2
        assert {info[0] for info in iterator._task_info.values()} <= {0, 1}
        del iterator


def test_without_a_seed_the_number_of_workers_stays() -> None:
    with _loader(tune=BUDGET, worker_mode="thread", seed=None) as loader:
        next(iter(loader))
        assert loader.tuning().setting.values == {PREFETCH: 2}


def test_the_memory_of_what_is_ahead_is_counted() -> None:
    loader = _loader(tune=BUDGET, worker_mode="thread")
    assert loader.knobs is not None
    loader.knobs.saw({"x": torch.zeros(10, 100), "y": [torch.zeros(50)]})
    assert loader.knobs.needs({PREFETCH: 4, WORKERS: 6}) == {"memory": 4200 * (24 + 3)}


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 1, "seed": None}])
def test_an_iterable_dataset_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(iopipe.PipelineError, match="map-style"):
        iopipe.DataLoader(data.Stream(8), tune="auto", **options)


def test_nothing_is_tuned_where_nobody_asked() -> None:
    with _loader() as loader:
        next(iter(loader))
        assert loader.knobs is None
        with pytest.raises(iopipe.PipelineError, match='give tune="auto" and iterate'):
            loader.tuning()


def test_a_tuned_loader_that_is_dropped_ends_its_workers() -> None:
    loader = _loader(tune=BUDGET, persistent_workers=True)
    next(iter(loader))
    workers = list(loader._iterator._workers)  # type: ignore[union-attr]
    ended = weakref.ref(loader)
    gc.disable()
    try:
        del loader
        assert ended() is None
        for worker in workers:
            worker.join(20)
    finally:
        gc.enable()

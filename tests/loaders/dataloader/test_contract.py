"""torch's contract, line by line: what holds for torch's DataLoader holds for ours."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic

import pytest
import torch
from fakes import loaded as data
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

import iopipe

Make = Callable[..., Any]


def flat(loader: Any) -> list[int]:
    return [int(item) for batch in loader for item in batch]


# ---- construction ------------------------------------------------------------------------


def test_it_is_a_torch_loader_and_generic() -> None:
    assert issubclass(iopipe.DataLoader, torch.utils.data.DataLoader)
    assert issubclass(iopipe.DataLoader, Generic)
    loader: iopipe.DataLoader[int] = iopipe.DataLoader[int](data.Numbers(3))
    assert flat(loader) == [0, 1, 2]


ILLEGAL: list[tuple[type[Exception], dict[str, Any]]] = [
    (ValueError, {"num_workers": -1}),
    (ValueError, {"timeout": -1}),
    (ValueError, {"prefetch_factor": 2}),
    (ValueError, {"num_workers": 1, "prefetch_factor": -1}),
    (ValueError, {"persistent_workers": True}),
    (ValueError, {"sampler": [0], "shuffle": True}),
    (ValueError, {"batch_sampler": [[0]], "batch_size": 2}),
    (ValueError, {"batch_sampler": [[0]], "shuffle": True}),
    (ValueError, {"batch_sampler": [[0]], "sampler": [0]}),
    (ValueError, {"batch_sampler": [[0]], "drop_last": True}),
    (ValueError, {"batch_size": None, "drop_last": True}),
    (ValueError, {"num_workers": 1, "multiprocessing_context": "bad"}),
    (ValueError, {"multiprocessing_context": "fork"}),
    (TypeError, {"num_workers": 1, "multiprocessing_context": object()}),
]


@pytest.mark.parametrize(("error", "options"), ILLEGAL, ids=str)
def test_illegal_options(make: Make, error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error):
        make(data.Numbers(5), **options)


@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {"sampler": [0]}, {"batch_sampler": [[0]]}], ids=str
)
def test_iterable_datasets_have_no_samplers(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="DataLoader with IterableDataset"):
        make(data.Stream(5), **options)


def test_a_time_out_needs_workers(make: Make) -> None:
    with pytest.raises(AssertionError):
        iter(make(data.Numbers(5), timeout=1))


def test_defaults_and_attributes(make: Make) -> None:
    dataset = data.Numbers(5)
    loader = make(dataset, num_workers=1)
    assert (loader.prefetch_factor, loader.batch_size, loader.drop_last) == (2, 1, False)
    assert isinstance(loader.sampler, SequentialSampler) and loader.dataset is dataset
    assert isinstance(make(dataset, shuffle=True).sampler, RandomSampler)
    for name in (
        *("num_workers", "pin_memory", "pin_memory_device", "timeout", "worker_init_fn"),
        *("in_order", "batch_sampler", "generator", "collate_fn", "persistent_workers"),
        *("_iterator", "_dataset_kind", "_auto_collation", "_index_sampler"),
        *("_get_iterator", "_IterableDataset_len_called", "multiprocessing_context"),
    ):
        assert hasattr(loader, name), name
    batches = make(dataset, batch_sampler=[[0, 1], [2]])
    assert (batches.batch_size, batches.drop_last) == (None, False)
    assert flat(batches) == [0, 1, 2]


def test_our_options_are_attributes_of_their_own_names() -> None:
    options = {"device": "cpu", "numa": None, "meter": False, "tune": None, "seed": 4}
    loader = iopipe.DataLoader(data.Numbers(5), worker_mode="thread", **options)  # type: ignore[arg-type]
    assert {name: getattr(loader, name) for name in options} == options
    assert loader.worker_mode == "thread"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worker_mode": "fibre"}, "give 'process' or 'thread'"),
        ({"numa": "near"}, "numa is 'near': give 'auto' or None"),
        ({"tune": "more", "num_workers": 1}, "tune is 'more': give 'auto', a Budget or None"),
        ({"tune": "auto"}, "give num_workers of 1 or more"),
        ({"tune": "auto", "num_workers": 1, "meter": False}, "judges by the meter"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
    ],
)
def test_our_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(iopipe.PipelineError, match=said):
        iopipe.DataLoader(data.Numbers(5), **options)


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_what_is_fixed_after_construction(make: Make, name: str) -> None:
    with pytest.raises(ValueError, match="should not be set after"):
        setattr(make(data.Numbers(5)), name, {})


def test_too_many_workers_are_warned_of(make: Make) -> None:
    with pytest.warns(UserWarning, match="excessive worker creation"):
        make(data.Numbers(5), num_workers=1000)


# ---- map-style datasets ------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_of_every_kind_of_thing(make: Make, num_workers: int) -> None:
    loader = make(data.Kinds(10), batch_size=4, num_workers=num_workers)
    expected = list(torch.utils.data.DataLoader(data.Kinds(10), batch_size=4))
    found = list(loader)
    assert len(found) == len(loader) == 3
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
        assert found.stride() == expected.stride()
    else:
        assert found == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_without_batches(make: Make, num_workers: int) -> None:
    assert list(make(data.Numbers(5), batch_size=None, num_workers=num_workers)) == [*range(5)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_may_fetch_whole_batches(make: Make, num_workers: int) -> None:
    found = [batch for batch in make(data.Bulk(7), batch_size=3, num_workers=num_workers)]
    assert [sizes.tolist() for _, sizes in found] == [[3, 3, 3], [3, 3, 3], [1]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_iterable_is_a_sampler(make: Make, num_workers: int) -> None:
    loader = make(data.Numbers(9), sampler=[5, 1, 8], batch_size=2, num_workers=num_workers)
    assert flat(loader) == [5, 1, 8]
    own = BatchSampler([3, 4, 5], 2, drop_last=True)
    assert flat(make(data.Numbers(9), batch_sampler=own, num_workers=num_workers)) == [3, 4]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_short_batches(make: Make, num_workers: int) -> None:
    loader = make(data.Numbers(7), batch_size=3, drop_last=True, num_workers=num_workers)
    assert len(loader) == 2 and flat(loader) == [*range(6)]


def test_a_dataset_may_grow_between_epochs(make: Make) -> None:
    dataset = data.Numbers(4)
    loader = make(dataset, num_workers=1)
    assert flat(loader) == [*range(4)]
    dataset.num = 6
    assert len(loader) == 6 and flat(loader) == [*range(6)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_collate_functions(make: Make, num_workers: int) -> None:
    loader = make(data.Numbers(4), batch_size=2, collate_fn=data.negated, num_workers=num_workers)
    assert list(loader) == [[0, -1], [-2, -3]]


def test_a_fresh_iterator_each_time_and_several_at_once(make: Make) -> None:
    loader = make(data.Numbers(6), num_workers=1)
    one, other = iter(loader), iter(loader)
    assert one is not other
    pairs = [(int(a), int(b)) for a, b in zip(one, other, strict=True)]
    assert pairs == [(n, n) for n in range(6)]
    with pytest.raises(NotImplementedError):
        pickle.dumps(iter(make(data.Numbers(6))))


def test_persistent_workers_keep_their_dataset_and_their_iterator(make: Make) -> None:
    loader = make(data.Counting(4), num_workers=1, persistent_workers=True)
    first = iter(loader)
    assert flat(first) == [1, 2, 3, 4]
    second = iter(loader)
    assert second is first and flat(second) == [5, 6, 7, 8]
    anew = make(data.Counting(4), num_workers=1)
    assert flat(anew) == flat(anew) == [1, 2, 3, 4]
    del first, second


@pytest.mark.parametrize("in_order", [True, False])
def test_a_slow_sample_and_the_order(make: Make, in_order: bool) -> None:
    dataset = data.Sleepy(8, slow=0, seconds=1.0)
    loader = make(dataset, num_workers=2, in_order=in_order, prefetch_factor=2)
    found = flat(loader)
    assert sorted(found) == [*range(8)]
    assert (found == [*range(8)]) == in_order


# ---- randomness --------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_order_is_torchs_for_the_same_generator(make: Make, num_workers: int) -> None:
    def shuffled(kind: Make) -> list[list[int]]:
        generator = torch.Generator().manual_seed(11)
        loader = kind(data.Numbers(20), shuffle=True, generator=generator, num_workers=num_workers)
        return [flat(loader), flat(loader)]

    expected = shuffled(torch.utils.data.DataLoader)
    assert shuffled(make) == expected and expected[0] != expected[1]


class Asked(Sampler[int]):
    """Draws when it is asked for an iterator, and counts."""

    def __init__(self) -> None:
        self.num_asked = 0

    def __iter__(self) -> Iterator[int]:
        self.num_asked += 1
        return iter([self.num_asked, *torch.randperm(8).tolist()])

    def __len__(self) -> int:
        return 9


@pytest.mark.parametrize("persistent_workers", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sampler_is_asked_as_often_as_torch_asks(
    make: Make, num_workers: int, persistent_workers: bool
) -> None:
    def epochs(kind: Make) -> list[list[int]]:
        torch.manual_seed(5)
        loader = kind(
            data.Numbers(9),
            batch_size=None,
            sampler=Asked(),
            num_workers=num_workers,
            persistent_workers=persistent_workers and num_workers > 0,
        )
        return [[int(item) for item in loader] for _ in range(3)]

    assert epochs(make) == epochs(torch.utils.data.DataLoader)


def test_workers_draw_what_torchs_draw(make_processes: Make) -> None:
    def drawn(kind: Make) -> list[Any]:
        generator = torch.Generator().manual_seed(5)
        loader = kind(data.Draws(8), num_workers=2, generator=generator)
        return [[float(value) for value in batch] for batch in loader]

    assert drawn(make_processes) == drawn(torch.utils.data.DataLoader)


def test_one_base_seed_is_drawn_an_iterator(make: Make) -> None:
    def after(kind: Make) -> float:
        torch.manual_seed(3)
        list(kind(data.Numbers(4), num_workers=1))
        return float(torch.rand(()))

    assert after(make) == after(torch.utils.data.DataLoader)


# ---- workers -----------------------------------------------------------------------------


def test_workers_know_themselves(make: Make) -> None:
    found = [[int(v) for v in batch] for batch in make(data.Info(6), num_workers=2)]
    assert {info[0] for info in found} == {0, 1} and {info[1] for info in found} == {2}
    assert len({info[2] for info in found}) == 2
    assert torch.utils.data.get_worker_info() is None


def test_worker_init_functions(ours: Make) -> None:
    loader = ours(data.ReportsNum(1), num_workers=2, worker_init_fn=data.remember_worker)
    assert flat(loader) == [10, 11, 10, 11, 10, 11]
    loader = ours(data.Numbers(4), num_workers=1, worker_init_fn=data.fail_to_begin)
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker process 0"):
        list(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_keep_their_type(ours: Make, num_workers: int) -> None:
    seen = []
    with pytest.raises(KeyError, match="sample 4 is broken"):
        for batch in ours(data.Failing(8), num_workers=num_workers):
            seen.append(int(batch))
    assert seen == [0, 1, 2, 3]


def test_time_outs(make: Make) -> None:
    loader = make(data.Sleepy(4, slow=1, seconds=2.0), num_workers=1, timeout=1)
    with pytest.raises(RuntimeError, match="DataLoader timed out after 1 seconds"):
        list(loader)


def test_a_worker_that_ends_leaves_the_others_their_time(make: Make) -> None:
    """The time-out is that of a batch, also once the shorter stream is through."""
    loader = make(data.LaterStream(3, seconds=0.2), num_workers=2, timeout=60)
    assert sorted(flat(loader)) == [0, 1, 2]


# ---- iterable datasets -------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_streams(make: Make, num_workers: int) -> None:
    loader = make(data.Stream(10), batch_size=3, num_workers=num_workers)
    assert sorted(flat(loader)) == sorted(flat(loader)) == [*range(10)]


def test_each_worker_has_its_own_replica(make: Make) -> None:
    found = flat(make(data.Stream(4, share=False), num_workers=2))
    assert sorted(found) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_worker_that_ends_early_retires(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more workers than cores
        found = flat(make(data.UnevenStream(), num_workers=3))
    assert sorted(found) == [100, 101, 102, 200, 201, 202, 203, 204, 205]


def test_batches_of_a_stream_come_from_one_worker_each(make: Make) -> None:
    loader = make(data.Stream(10), batch_size=3, num_workers=2, drop_last=True)
    batches = [batch.tolist() for batch in loader]
    assert all(len({number % 2 for number in batch}) == 1 for batch in batches)
    assert len(batches) == 2  # each worker drops its own rest


def test_lengths_of_streams(make: Make) -> None:
    assert len(make(data.SizedStream(10), batch_size=4)) == 3
    assert len(make(data.SizedStream(10), batch_size=4, drop_last=True)) == 2
    with pytest.raises(TypeError):
        len(make(data.Stream(10)))
    loader = make(data.SizedStream(2, share=False), num_workers=2)
    assert len(loader) == 2
    with pytest.warns(UserWarning, match="Length of IterableDataset"):
        list(loader)

"""States: before, within and after an epoch, with other numbers of workers, at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from fakes import loaded as data
from torch.utils.data import DistributedSampler, RandomSampler, Sampler

import iopipe
from iopipe import OrderSampler, StateError

Make = Callable[..., Any]


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """And through torch's own format, without leave to run anything."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == state
    found: dict[str, Any] = json.loads(json.dumps(state))
    return found


def items(iterator: Any, num: int | None = None) -> list[Any]:
    found = []
    for batch in iterator:
        found.append(batch.tolist() if isinstance(batch, torch.Tensor) else batch)
        if len(found) == num:
            break
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "stored": {},
    "shuffled": {"shuffle": True},
    "generator": {"shuffle": True, "generator": 7},
    "seeded": {"shuffle": True, "seed": 5},
    "sampler": {"sampler": [4, 2, 9, 11, 3, 5, 8, 1, 0, 10]},
}


def loader_of(ours: Make, kind: str, num_workers: int) -> Any:
    options = dict(OPTIONS[kind])
    if "generator" in options:
        options["generator"] = torch.Generator().manual_seed(options["generator"])
    return ours(data.Numbers(23), batch_size=3, num_workers=num_workers, **options)


@pytest.mark.parametrize("kind", list(OPTIONS))
@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_an_epoch_goes_on_with_another_number_of_workers(
    ours: Make, kind: str, num_batches: int
) -> None:
    torch.manual_seed(1)
    first = loader_of(ours, kind, 2)
    iterator = iter(first)
    seen = items(iterator, num_batches) if num_batches else []
    state = through_json(first.state_dict())
    rest = items(iterator)
    second = loader_of(ours, kind, 1 if num_batches == 1 else 0)
    torch.manual_seed(99)  # the program's generator is elsewhere by now
    second.load_state_dict(state)
    before = torch.get_rng_state()
    assert items(iter(second)) == rest
    if kind == "shuffled":
        assert torch.equal(torch.get_rng_state(), before)
    assert len(seen) == num_batches
    whole = items(loader_of(ours, kind, 0))
    assert sorted(chain(*seen, *rest)) == sorted(chain(*whole))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_states_at_the_ends_of_epochs(ours: Make, num_workers: int) -> None:
    """Before the first epoch, and after one: the next iteration is a whole new epoch."""
    first = loader_of(ours, "generator", num_workers)
    state = through_json(first.state_dict())
    epochs = [items(first), items(first)]
    second = loader_of(ours, "generator", num_workers)
    second.load_state_dict(state)
    assert [items(second), items(second)] == epochs
    third = loader_of(ours, "generator", num_workers)
    items(third)
    fourth = loader_of(ours, "generator", num_workers)
    fourth.load_state_dict(through_json(third.state_dict()))
    assert items(fourth) == epochs[1]


def test_seeded_epochs_follow_each_other_over_a_resume(ours: Make) -> None:
    first = loader_of(ours, "seeded", 0)
    epochs = [items(first) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    second = loader_of(ours, "seeded", 0)
    items(second)
    iterator = iter(second)
    assert items(iterator, 2) == epochs[1][:2]
    third = loader_of(ours, "seeded", 1)
    third.load_state_dict(second.state_dict())
    assert items(third) == epochs[1][2:]
    assert items(third) == epochs[2]


def test_an_empty_state_changes_nothing(ours: Make) -> None:
    loader = loader_of(ours, "stored", 0)
    loader.load_state_dict({})
    assert len(items(loader)) == 8


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_go_on_by_going_through_again(ours: Make, num_workers: int) -> None:
    first = ours(data.Stream(20), batch_size=3, num_workers=num_workers)
    iterator = iter(first)
    items(iterator, 3)
    state = through_json(first.state_dict())
    rest = items(iterator)
    second = ours(data.Stream(20), batch_size=3, num_workers=num_workers)
    second.load_state_dict(state)
    iterator = iter(second)
    assert second.state_dict()["num_yielded"] == 3
    assert items(iterator) == rest
    other = ours(data.Stream(20), batch_size=3, num_workers=1)
    with pytest.raises(StateError, match="num_workers is"):
        other.load_state_dict(state)
    short = ours(data.Stream(4), batch_size=3, num_workers=num_workers)
    short.load_state_dict(state)
    with pytest.raises(StateError, match="it is another dataset"):
        iter(short)


class Eager(Sampler[int]):
    """Draws its order when it is asked for an iterator, not with the first index."""

    def __iter__(self) -> Any:
        return iter(torch.randperm(20).tolist())

    def __len__(self) -> int:
        return 20


class EagerBatches(Eager):
    def __iter__(self) -> Any:
        return iter(torch.randperm(20).view(5, 4).tolist())


HOW: dict[str, dict[str, Any]] = {
    "no workers": {"num_workers": 0},
    "workers": {"num_workers": 2},
    "workers that stay": {"num_workers": 2, "persistent_workers": True},
}
ORDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "drawn late": lambda: {"shuffle": True, "batch_size": 4},
    "drawn at once": lambda: {"batch_sampler": EagerBatches()},
    "drawn at once, no batches": lambda: {"sampler": Eager(), "batch_size": None},
    "own generator": lambda: {
        "shuffle": True,
        "batch_size": 4,
        "generator": torch.Generator().manual_seed(3),
    },
}


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("then", list(HOW))
@pytest.mark.parametrize("now", list(HOW))
@pytest.mark.parametrize("epoch", [0, 1])
def test_orders_that_are_drawn_go_on(epoch: int, now: str, then: str, order: str) -> None:
    """Whenever torch draws its base seed: with workers that stay, in the first epoch only."""
    torch.manual_seed(6)
    first: Any = iopipe.DataLoader(
        data.Numbers(20), worker_mode="thread", **HOW[then], **ORDERS[order]()
    )
    for _ in range(epoch):
        items(first)
    iterator = iter(first)
    seen = items(iterator, 2)
    state = through_json(first.state_dict())
    rest = items(iterator)
    assert len({str(item) for item in seen + rest}) in (5, 20)
    second: Any = iopipe.DataLoader(
        data.Numbers(20), worker_mode="thread", **HOW[now], **ORDERS[order]()
    )
    torch.manual_seed(77)
    for _ in range(2):  # by workers that begin, and by those that are there
        second.load_state_dict(state)
        iterator = iter(second)
        assert items(iterator, 1) == rest[:1]
        again = through_json(second.state_dict())
        assert items(iterator) == rest[1:]
    second.load_state_dict(again)
    assert items(second) == rest[1:]
    first.close()
    second.close()


def test_a_batch_may_be_none() -> None:
    first = iopipe.DataLoader(data.Stream(5), batch_size=None, collate_fn=data.nothing)
    iterator = iter(first)
    items(iterator, 3)
    second = iopipe.DataLoader(data.Stream(5), batch_size=None, collate_fn=data.nothing)
    second.load_state_dict(first.state_dict())
    assert items(second) == [None, None]


def test_samplers_with_a_state_of_their_own(ours: Make) -> None:
    class Rotating(RandomSampler):
        def __init__(self) -> None:
            super().__init__(range(10))
            self.turn = 0

        def __iter__(self) -> Any:
            self.turn += 1
            return iter([(number + self.turn) % 10 for number in range(10)])

        def state_dict(self) -> dict[str, int]:
            return {"turn": self.turn}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.turn = state["turn"]

    first = ours(data.Numbers(10), sampler=Rotating())
    items(first)
    iterator = iter(first)
    items(iterator, 4)
    state = through_json(first.state_dict())
    rest = items(iterator)
    second = ours(data.Numbers(10), sampler=Rotating())
    second.load_state_dict(state)
    assert items(second) == rest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 0}, "version is 0, this loader has 1"),
        ({"seed": 4}, "seed is 4, this loader has None"),
        ({"batch_size": 9}, "batch_size is 9, this loader has 3"),
        ({"kind": "iterable"}, "kind is 'iterable'"),
        ({"num_yielded": -1}, r"state\['num_yielded'\] is -1"),
        ({"num_workers": None}, r"state\['num_workers'\] is None"),
    ],
)
def test_states_that_do_not_fit_say_what_differs(change: dict[str, Any], said: str) -> None:
    loader = iopipe.DataLoader(data.Numbers(9), batch_size=3)
    with pytest.raises(StateError, match=said):
        loader.load_state_dict({**loader.state_dict(), **change})


def test_what_came_out_of_order_is_not_guessed(ours: Make) -> None:
    """The first three batches need not be those that were handed over."""
    options: dict[str, Any] = {"batch_size": 3, "num_workers": 2, "in_order": False}
    first = ours(data.Numbers(23), **options)
    before = first.state_dict()
    iterator = iter(first)
    items(iterator, 3)
    within = through_json(first.state_dict())
    items(iterator)
    after = first.state_dict()
    second = ours(data.Numbers(23), **options)
    with pytest.raises(StateError, match="batches came out of order"):
        second.load_state_dict(within)
    for state in (before, after):
        second.load_state_dict(state)
        assert sorted(chain(*items(second))) == [*range(23)]


def test_half_a_state_is_none() -> None:
    loader = iopipe.DataLoader(data.Numbers(9), batch_size=3)
    state = loader.state_dict()
    del state["rng"], state["finished"]
    with pytest.raises(StateError, match="the state lacks finished, rng"):
        loader.load_state_dict(state)


def test_a_huge_epoch_is_entered_at_once() -> None:
    """Position arithmetic: nothing is gone through."""
    loader = iopipe.DataLoader(data.Numbers(10**12), batch_size=100, shuffle=True, seed=1)
    state = loader.state_dict()
    loader.load_state_dict({**state, "num_yielded": 10**9, "finished": False})
    found = next(iter(loader)).tolist()
    sampler = OrderSampler(data.Numbers(10**12), seed=1)
    indices = sampler.iter_from(10**11)
    assert found == [next(indices) for _ in range(100)]


def test_the_epoch_that_a_sampler_was_told_of_holds(ours: Make) -> None:
    """As scripts for DistributedSampler have it, also from the middle of a training on."""
    numbers = data.Numbers(12)
    sampler, reference = (DistributedSampler(numbers, 1, 0, shuffle=True) for _ in range(2))
    loader = ours(numbers, batch_size=None, sampler=sampler, seed=2)
    for epoch in (5, 6, 9):
        sampler.set_epoch(epoch)
        reference.set_epoch(epoch)
        assert items(loader) == list(reference)
        assert loader.state_dict()["epoch"] == epoch
    reference.set_epoch(10)  # and goes on by itself
    assert items(loader) == list(reference)


def test_epochs_are_told_to_sampler_and_dataset(ours: Make) -> None:
    class Told(data.Numbers):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    sampler = OrderSampler(data.Numbers(8), seed=2)
    loader = ours(Told(8), sampler=sampler)
    loader.set_epoch(3)
    assert (loader.dataset.epoch, sampler.epoch) == (3, 3)
    assert [int(item) for item in loader] == list(sampler)


def test_closing_ends_persistent_workers(ours: Make) -> None:
    with ours(data.Numbers(4), num_workers=1, persistent_workers=True) as loader:
        list(loader)
        (worker,) = loader._iterator._workers
        assert worker.is_alive()
    assert not worker.is_alive()
    loader.close()
    assert len(list(loader)) == 4
    loader.close()

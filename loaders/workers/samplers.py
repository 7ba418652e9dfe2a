"""Which indices come, from any place of an epoch on.

Stands between a loader and torch's iterators, which draw indices from it.  Invariant: an epoch
that is entered at batch n gives the batches n, n + 1, ... of the same epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler

from iopipe.order import Cursor, FullShuffle, Order
from iopipe.order.ranks import detect_ranks

_BLOCK = 1024


@dataclass(slots=True, kw_only=True)
class EpochProgress:
    """Where one iteration stands."""

    epoch: int = 0
    num_yielded: int = 0
    is_finished: bool = False
    rng: torch.Tensor | None = None
    """State of the loader's generator before the iteration began."""
    sampler: dict[str, Any] | None = None
    """State of the sampler then, where it has one."""
    is_resumed: bool = False
    num_skipped: int = 0
    """Batches that an earlier run was given."""
    num_workers: int = 0
    """Of the loader that began the epoch: with some, torch asks the sampler for an iterator
    twice when workers are started, and uses the second one."""
    draws_seed: bool = True
    """Whether torch drew a base seed when the epoch began; it does when workers are started,
    not when those that are there go on."""


class OrderSampler(DistributedSampler[int]):
    """Indices in the order of iopipe: shuffled by (seed, epoch), O(1) memory, resumed at once.

    With `rank` and `world` it is one rank's share; None asks for them when an epoch begins.
    `set_epoch` chooses the epoch.  What does not go round is left out, every epoch another.
    It is a DistributedSampler, so that frameworks do not split the share a second time.
    """

    def __init__(
        self, data: Sized, *, seed: int, rank: int | None = 0, world: int | None = 1
    ) -> None:
        # None of its parent's arithmetic is used, so neither is its __init__.
        self.data = data
        self.seed = seed
        self.rank = rank  # type: ignore[assignment]
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.order().num_local(Cursor(epoch=self.epoch))

    def __iter__(self) -> Iterator[int]:
        return self.iter_from(0)

    def iter_from(self, num_skipped: int) -> Iterator[int]:
        """Without the first `num_skipped` indices."""
        order, cursor = self.order(), Cursor(epoch=self.epoch)
        num_local = order.num_local(cursor)
        for first in range(num_skipped, num_local, _BLOCK):
            yield from order.ids(cursor, first, min(first + _BLOCK, num_local)).tolist()

    def order(self) -> Order:
        """The arithmetic behind it, as it is now."""
        sequence = FullShuffle(num_samples=len(self.data), seed=self.seed)
        rank, world = self.rank, self.world
        if rank is None or world is None:  # torch.distributed may begin after the loader was made
            rank, world = detect_ranks()
        return Order(sequence=sequence, rank=rank, world=world)


class Skipping:
    """An index sampler, from the batch on at which `progress` enters the epoch."""

    def __init__(
        self,
        inner: Any,
        progress: EpochProgress,
        *,
        begun: Iterator[Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """`begun` is the iterator of `inner` that torch asked for before it drew its base seed,
        where it did; `generator` what it drew that from."""
        self.inner = inner
        self.progress = progress
        self._begun = begun
        self._generator = generator

    def __iter__(self) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        progress = self.progress
        is_ours = isinstance(getattr(self.inner, "sampler", self.inner), OrderSampler)
        if progress.is_resumed:
            whole = self._as_it_was(begun)
        else:
            whole = begun if begun is not None and not progress.num_workers else iter(self.inner)
            if not is_ours:
                return whole
        indices = iter_from(self.inner, progress.num_skipped, whole=whole)
        # Drawn now: a sampler may draw its seed with its first index, and frameworks tell ours
        # of an epoch after they have asked for the iterator of another.
        first = list(islice(indices, 1))
        return chain(first, indices)

    def __len__(self) -> int:
        return len(self.inner)

    def _as_it_was(self, begun: Iterator[Any] | None) -> Iterator[Any]:
        """The iterator of a resumed epoch, after the draws with which that epoch began."""
        progress = self.progress
        if not progress.draws_seed:
            if begun is not None:  # a seed was drawn since
                self._rewind()
            return iter(self.inner)
        if begun is None:  # the workers are there already, and no seed was drawn
            begun = iter(self.inner)
            torch.empty((), dtype=torch.int64).random_(generator=self._generator)
        return iter(self.inner) if progress.num_workers else begun

    def _rewind(self) -> None:
        rng = self.progress.rng
        assert rng is not None
        if self._generator is None:
            torch.set_rng_state(rng)
        else:
            self._generator.set_state(rng)
        places: list[Any] = [self.inner, getattr(self.inner, "sampler", None)]
        stateful = next((one for one in places if hasattr(one, "load_state_dict")), None)
        if stateful is not None and self.progress.sampler is not None:
            stateful.load_state_dict(self.progress.sampler)


def iter_from(
    sampler: Any, num_skipped: int, *, whole: Iterator[Any] | None = None
) -> Iterator[Any]:
    """`sampler` without its first `num_skipped` items, at once where it can be computed, else by
    going through `whole`, an iterator of it."""
    if not num_skipped and whole is not None:
        return whole
    if hasattr(sampler, "iter_from"):
        found: Iterator[Any] = sampler.iter_from(num_skipped)
        return found
    if type(sampler) is SequentialSampler:
        return iter(range(num_skipped, len(sampler)))
    if type(sampler) is BatchSampler:
        rest = _Rest(sampler.sampler, num_skipped * sampler.batch_size)
        return iter(BatchSampler(rest, sampler.batch_size, sampler.drop_last))
    return islice(iter(sampler) if whole is None else whole, num_skipped, None)


@dataclass(frozen=True, slots=True)
class _Rest:
    """An iterable over the rest of a sampler."""

    sampler: Any
    num_skipped: int

    def __iter__(self) -> Iterator[Any]:
        return iter_from(self.sampler, self.num_skipped)

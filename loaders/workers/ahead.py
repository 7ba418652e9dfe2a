"""The next epoch, begun while this one is still being handed over.

Stands between a loader's order and torch's iterator with persistent workers.  Invariant: an
epoch begun early is taken up only where it is the one that is asked for then; otherwise torch's
own reset throws away what was fetched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler

from iopipe.loaders.workers.samplers import EpochProgress, OrderSampler
from iopipe.order import Order


@dataclass(frozen=True, slots=True)
class Ahead:
    """One epoch of an `OrderSampler`, as it was when it was begun."""

    epoch: int
    order: Order
    first_task: int
    """Number of its first batch among all that were sent to the workers."""
    indices: Iterator[Any]

    def is_for(self, sampler: Any, progress: EpochProgress) -> bool:
        """Whether `progress`, at the beginning of an iteration, is about to enter it."""
        own = _order_sampler(sampler)
        return (
            own is not None
            and not progress.is_resumed
            and (progress.epoch, own.epoch) == (self.epoch, self.epoch)
            and own.order() == self.order
        )


def next_epoch(sampler: Any, *, epoch: int, first_task: int) -> Ahead | None:
    """What follows `epoch`; None where it cannot be known without asking the sampler, which may
    draw from the program's generators."""
    own = _order_sampler(sampler)
    if own is None or own.epoch != epoch:
        return None
    following = copy.copy(own)
    following.set_epoch(epoch + 1)
    indices: Any = following
    if sampler is not own:
        indices = BatchSampler(following, sampler.batch_size, sampler.drop_last)
    return Ahead(epoch + 1, following.order(), first_task, iter(indices))


def _order_sampler(sampler: Any) -> OrderSampler | None:
    inner = sampler.sampler if type(sampler) is BatchSampler else sampler
    return inner if isinstance(inner, OrderSampler) else None

"""What was delivered of an epoch, and so where a run goes on.

Stands between the run and the states that it saves.  Invariant: a place says exactly which
positions are still to come, also where batches overtook each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iopipe.errors import StateError
from iopipe.order import Cursor, Order, Stored
from iopipe.plan import Plan

Stretch = tuple[int, int]
"""(first, last): a rank's samples first .. last - 1, counted from where it entered."""


class Progress:
    """Keeps count of one rank; `in_order` says whether batches may overtake each other."""

    def __init__(self, plan: Plan, cursor: Cursor, *, in_order: bool = True) -> None:
        self._plan = plan
        self._in_order = in_order
        self._entry = cursor
        self._num_done = 0
        """All of this rank's samples before it were delivered."""
        self._ahead: dict[int, int] = {}
        """Stretches behind `_num_done` that were, too: first to last."""
        self._cursor: Cursor | None = None
        """None: not asked for since the last batch.  It is the plan's from the beginning: an
        epoch that is entered behind its last batch is over."""

    @property
    def cursor(self) -> Cursor:
        """Where the samples come from that are the next in order."""
        if self._cursor is None:
            self._cursor = self._plan.after(self._entry, self._num_done)
        return self._cursor

    @property
    def num_batches_ahead(self) -> int:
        """Delivered before one that comes earlier."""
        return len(self._ahead)

    def record(self, entry: Cursor, first: int, last: int) -> None:
        """This rank's samples first .. last - 1 since `entry` were delivered."""
        if entry != self._entry:
            self._entry, self._num_done = entry, 0
        self._ahead[first] = last
        while self._num_done in self._ahead:
            self._num_done = self._ahead.pop(self._num_done)
        self._cursor = None

    def state(self) -> dict[str, Any]:
        """Plain values: a place, or where batches may overtake each other on one of several
        ranks, this rank's part of it, for `merge_states`."""
        order = self._plan.order
        if self._in_order:
            return state_of(self.cursor)
        if self.cursor.epoch > self._entry.epoch:  # nothing of the next epoch was delivered
            self._entry, self._num_done = self.cursor, 0
        stretches = [*([(0, self._num_done)] if self._num_done else []), *self._ahead.items()]
        if order.world == 1:
            return state_of(remaining(order, self._entry, [stretches]))
        return {
            **state_of(self._entry),
            "rank": order.rank,
            "world": order.world,
            "num_positions": order.sequence.num_positions(self._entry.epoch),
            "delivered": [list(stretch) for stretch in sorted(stretches)],
        }


def remaining(order: Order, entry: Cursor, delivered: Sequence[Sequence[Stretch]]) -> Cursor:
    """The place from which all goes on that was not delivered since `entry`.

    `delivered` has the stretches of each rank of a world of `len(delivered)`.
    """
    world = len(delivered)
    num_local = max((last for stretches in delivered for _, last in stretches), default=0)
    done = np.zeros((num_local, world), np.bool_)
    for rank, stretches in enumerate(delivered):
        for first, last in stretches:
            done[first:last, rank] = True
    alone = Order(sequence=order.sequence)
    num_turns = min(done.size, alone.num_left(entry))
    late = alone.positions(entry, 0, num_turns)[~done.ravel()[:num_turns]]
    behind = alone.after(entry, num_turns)
    pending = tuple(sorted((*late.tolist(), *behind.pending)))
    return Cursor(epoch=entry.epoch, position=behind.position, pending=pending)


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state out of those that all ranks saved at the same step.

    Needed where runs deliver out of order (`in_order=False`) on several ranks, each of which
    knows its own part only; any number of ranks continues from the result.
    """
    parts = sorted(states, key=lambda state: int(state.get("rank", 0)))
    if not parts:
        raise StateError("there are no states to merge")
    world = int(parts[0].get("world", 1))
    if [int(state.get("rank", 0)) for state in parts] != list(range(world)):
        raise StateError(
            f"states of ranks {[state.get('rank') for state in parts]} were given, needed is one "
            f"of each of {world}"
        )
    own = ("rank", "delivered", "quarantined", "sources")
    shared = [{name: state[name] for name in state if name not in own} for state in parts]
    for other in shared[1:]:
        if other != shared[0]:
            raise StateError(f"the states were saved at different places: {shared[0]} and {other}")
    quarantined = sorted({sample for state in parts for sample in state.get("quarantined", ())})
    if "delivered" not in parts[0]:
        return {**shared[0], "quarantined": quarantined}
    entry = place_of({name: parts[0][name] for name in ("epoch", "position", "pending")})
    order = Order(sequence=Stored(num_samples=shared[0].pop("num_positions")))
    del shared[0]["world"]
    left = remaining(order, entry, [state["delivered"] for state in parts])
    return {**shared[0], **state_of(left), "quarantined": quarantined}


def place_of(state: Mapping[str, Any]) -> Cursor:
    """The place that a state names; `StateError` where it names none."""
    if "delivered" in state:
        raise StateError(
            f"this state is the part of rank {state.get('rank')} of {state.get('world')}, whose "
            "batches were delivered out of order; put those of all ranks together with "
            "iopipe.merge_states"
        )
    pending = state.get("pending", [])
    if not isinstance(pending, Sequence) or [*pending] != sorted({*pending}):
        raise StateError(f"state['pending'] is {pending!r}; it must be ascending positions")
    return Cursor(
        epoch=_natural(state, "epoch"), position=_natural(state, "position"), pending=tuple(pending)
    )


def state_of(cursor: Cursor) -> dict[str, Any]:
    """A cursor as plain values."""
    return {
        "epoch": cursor.epoch,
        "position": cursor.position,
        "pending": list(cursor.pending),
    }


def _natural(state: Mapping[str, Any], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise StateError(f"state[{name!r}] is {value!r}; it must be a whole number >= 0")
    return value

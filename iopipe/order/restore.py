"""A sequence out of what a state or a ledger says of it.

Stands beside the sequences.  Invariant: the sequence has the identity that was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iopipe.errors import StateError
from iopipe.order.mixture import Mixture, Phase
from iopipe.order.shuffles import BlockShuffle, EpochSequence, FullShuffle, Stored


def restore_sequence(identity: Mapping[str, Any], num_samples: int) -> EpochSequence:
    """`identity` may hold more than a sequence's own; `StateError` where it lacks something."""
    try:
        sequence = _restored(identity, num_samples)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"no order can be made of {dict(identity)!r}: {error!r}") from error
    known = sequence.identity()
    if {name: identity.get(name) for name in known} != known:
        raise StateError(f"the order of {dict(identity)!r} is not the one that is known here")
    return sequence


def _restored(identity: Mapping[str, Any], num_samples: int) -> EpochSequence:
    kind, seed = identity["shuffle"], identity["seed"]
    if kind == "none":
        return Stored(num_samples=num_samples, seed=seed)
    if kind == "full":
        return FullShuffle(num_samples=num_samples, seed=seed)
    if kind == "block":
        sizes = {name: identity[name] for name in ("block_samples", "window_blocks", "lanes")}
        return BlockShuffle(num_samples=num_samples, seed=seed, **sizes)
    if kind == "mixture":
        parts = identity["parts"]
        stop = identity["stop"]
        return Mixture(
            names=tuple(part["name"] for part in parts),
            parts=tuple(_restored(part, part["num_samples"]) for part in parts),
            phases=tuple(
                Phase(start=start, counts=tuple(counts)) for start, counts in identity["weights"]
            ),
            stop=stop,
            seed=seed,
            epoch_samples=identity["epoch_samples"] if stop == "repeat" else None,
        )
    raise ValueError(f"shuffle is {kind!r}")

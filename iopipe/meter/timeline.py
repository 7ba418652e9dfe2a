"""The steps of a run as a frozen value: what a history knew when it was asked.

Stands between the history and the pictures, also across processes, as JSON.  Invariant: what
`from_json` gives equals what `to_json` was called on; a file that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from iopipe.errors import DataError
from iopipe.protocols import Int64Array

SCHEMA = 1
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """n buckets of steps, oldest first; times in ns."""

    causes: tuple[str, ...]
    counts: Int64Array
    """[n]: steps in the bucket; 1 for each of the last ones."""
    started_ns: Int64Array
    """[n]: of the first step."""
    ended_ns: Int64Array
    """[n]: of the last step."""
    sums: Int64Array
    """[n, 1 + causes]: over the steps of the bucket: duration, then idle time by cause."""
    lowest: Int64Array
    """As `sums`: of the step that had least."""
    highest: Int64Array
    """As `sums`: of the step that had most."""
    step_ms: tuple[float, ...]
    """Of all steps of the run, at `QUANTILES`."""
    stall_ms: tuple[float, ...]
    """Of the time in each that its input was missing, at `QUANTILES`."""

    @property
    def num_steps(self) -> int:
        return int(self.counts.sum())

    def to_json(self) -> dict[str, Any]:
        """Plain values of schema 1; causes that never occurred are left out."""
        seen = [n for n in range(len(self.causes)) if self.highest[:, n + 1].any()]
        columns = [0, *(n + 1 for n in seen)]
        return {
            "schema": SCHEMA,
            "causes": [self.causes[n] for n in seen],
            "counts": self.counts.tolist(),
            "started_ns": self.started_ns.tolist(),
            "ended_ns": self.ended_ns.tolist(),
            "sums": self.sums[:, columns].T.tolist(),
            "lowest": self.lowest[:, columns].T.tolist(),
            "highest": self.highest[:, columns].T.tolist(),
            "step_ms": list(self.step_ms),
            "stall_ms": list(self.stall_ms),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Timeline:
        """`DataError` for what is not shaped as `to_json` gives it."""
        if content.get("schema") != SCHEMA:
            raise DataError(f"steps of schema {content.get('schema')!r}: known is {SCHEMA}")
        try:
            causes = tuple(str(name) for name in content["causes"])
            shape = len(content["counts"]), 1 + len(causes)
            times = {name: _whole(content[name], shape[:1]) for name in _TIMES}
            if (times["counts"] < 1).any():
                raise ValueError("a bucket without steps")
            tables = {name: _whole(content[name], shape[::-1]).T for name in _TABLES}
            shares = {name: _quantiles(content[name]) for name in _SHARES}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"steps that cannot be read: {error!r}") from error
        return cls(causes=causes, **times, **tables, **shares)  # type: ignore[arg-type]


_TIMES = ("counts", "started_ns", "ended_ns")
_TABLES = ("sums", "lowest", "highest")
_SHARES = ("step_ms", "stall_ms")


def _whole(values: Any, shape: tuple[int, ...]) -> Int64Array:
    array = np.array(values)
    if array.size and array.dtype.kind != "i":
        raise ValueError(f"{array.dtype} where whole numbers belong")
    return array.astype(np.int64).reshape(shape)


def _quantiles(values: Any) -> tuple[float, ...]:
    if len(values) != len(QUANTILES):
        raise ValueError(f"{len(values)} quantiles, expected are {len(QUANTILES)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{values!r} where numbers belong")
    return tuple(float(value) for value in values)

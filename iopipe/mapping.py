"""A user's function on single samples, made to fit the columnar flow.

Stands between chunks and the dicts that users write functions for.  Invariant: row i of
what comes out was made from the sample whose id and key it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from iopipe.draws import generator
from iopipe.errors import DataError
from iopipe.protocols import Samples
from iopipe.stages import Stage


def map_stage(
    function: Callable[..., dict[str, Any] | None], name: str, *, batched: bool, random: bool
) -> Stage:
    """The stage that applies `function` to every batch, or to every sample."""
    op = f"map {name}" if random else None
    return Stage(
        name=name,
        function=function if batched else map_rows(function, op=op),
        takes="batch" if batched else "samples",
        cause="transform",
    )


def map_rows(
    function: Callable[..., dict[str, Any] | None], *, op: str | None = None
) -> Callable[[Samples], Samples]:
    """A stage function that applies `function` to each sample and drops those it answers
    with None.  With `op` it also gets a generator for its random draws, keyed by that name."""
    return partial(_mapped, function=function, op=op)


def _mapped(
    samples: Samples, *, function: Callable[..., dict[str, Any] | None], op: str | None
) -> Samples:
    results = [_call(function, op, samples, row) for row in range(len(samples))]
    kept = [row for row, result in enumerate(results) if result is not None]
    return _gathered(samples, kept, [results[row] for row in kept])


def _call(
    function: Callable[..., dict[str, Any] | None], op: str | None, samples: Samples, row: int
) -> dict[str, Any] | None:
    try:
        if op is None:
            return function(samples.row(row))
        number = int(samples.ids[row])
        draws = generator(number, seed=samples.seed, epoch=samples.epoch, op=op)
        return function(samples.row(row), draws)
    except DataError as error:
        error.row = row
        raise
    except Exception as error:
        error.add_note(f"at sample {samples.ids[row]} with key {samples.keys[row]!r}")
        raise


def _gathered(samples: Samples, kept: list[int], results: list[Any]) -> Samples:
    names = [name for name in results[0] if name != "__key__"] if results else []
    for row, result in zip(kept, results, strict=True):
        if {*result} - {"__key__"} != {*names}:
            raise DataError(
                f"the mapped sample has fields {sorted(result)}, others have {sorted(names)}; "
                "return the same fields for every sample",
                row=row,
            )
    rest = samples.take(kept)
    keys = [result.get("__key__", key) for result, key in zip(results, rest.keys, strict=True)]
    return rest.made({name: [result[name] for result in results] for name in names}, keys=keys)

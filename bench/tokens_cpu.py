"""Batches of token windows on the host, against gathers out of a numpy memmap.

`python -m iopipe.bench.tokens_cpu --json FILE`: uint16 windows of 2049, batches of 64, out of the
page cache.  numpy's gathers draw random places, and that is all they do; the pipeline goes through
a shuffled epoch, keeps a state and names its samples.  All of them end with inputs and labels as
views.  Ways take turns; a turn that other processes disturbed is made again, three times at most.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import iopipe
from iopipe.bench.harness import ForeignLoad, residency, write_results

_WINDOW, _BATCH = 2049, 64
_NUM_TOKENS = 104_300_000
_SECONDS = 0.7
_QUIET_CORES = 0.1
_MAX_TRIES = 3


def gather_elements(path: str) -> Iterator[Any]:
    """One index a token: how a gather out of a memmap is mostly written."""
    tokens = np.memmap(path, np.uint16, "r")
    generator, span = np.random.default_rng(0), np.arange(_WINDOW)
    while True:
        starts = generator.integers(0, len(tokens) - _WINDOW, _BATCH)
        batch = tokens[starts[:, None] + span]
        yield batch[:, :-1], batch[:, 1:]


def gather_rows(path: str) -> Iterator[Any]:
    """One index a window, of a table of windows: the fastest way that numpy has."""
    tokens = np.memmap(path, np.uint16, "r")
    table = tokens[: len(tokens) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    generator = np.random.default_rng(0)
    while True:
        batch = table[generator.integers(0, len(table), _BATCH)]
        yield batch[:, :-1], batch[:, 1:]


def stack_slices(path: str) -> Iterator[Any]:
    """A slice a window: nanoGPT's way, without its conversion."""
    tokens = np.memmap(path, np.uint16, "r")
    generator = np.random.default_rng(0)
    while True:
        starts = generator.integers(0, len(tokens) - _WINDOW, _BATCH).tolist()
        batch = np.stack([tokens[start : start + _WINDOW] for start in starts])
        yield batch[:, :-1], batch[:, 1:]


def ours(path: str) -> Iterator[Any]:
    """Shuffled epochs of a pipeline; its state is asked for now and then, as to save it."""
    pipeline = iopipe.read(path, window=_WINDOW).shuffle(0).batch(_BATCH, drop_last=True)
    with pipeline.run(num_epochs=None) as run:
        for number, batch in enumerate(run):
            if number % 100 == 0:
                run.state_dict()
            yield batch["tokens"][:, :-1], batch["tokens"][:, 1:]


WAYS: dict[str, Callable[[str], Iterator[Any]]] = {
    "numpy memmap, an index a token": gather_elements,
    "numpy memmap, an index a window": gather_rows,
    "numpy memmap, slices stacked": stack_slices,
    "iopipe": ours,
}


def turn(batches: Iterator[Any]) -> dict[str, float]:
    """Tokens a second and what it took, for some tenths of a second after a warm-up that uses up
    what was made before."""
    for _ in itertools.islice(batches, 200):
        continue
    foreign, cpu = ForeignLoad(), time.process_time()
    start, num = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        for _ in itertools.islice(batches, 64):
            num += 1
    seconds = time.perf_counter() - start
    tokens = num * _BATCH * _WINDOW
    return {
        "tokens_per_second": tokens / seconds,
        "cpu_seconds_per_1e6_tokens": (time.process_time() - cpu) / tokens * 1e6,
        "foreign_cores": foreign.cores(),
    }


def quiet_turn(batches: Iterator[Any]) -> dict[str, float]:
    """The least disturbed of a few: chosen by what others did, never by its speed."""
    tries: list[dict[str, float]] = []
    while len(tries) < _MAX_TRIES and not (tries and tries[-1]["foreign_cores"] <= _QUIET_CORES):
        tries.append(turn(batches))
    return min(tries, key=lambda one: one["foreign_cores"])


def main() -> None:
    """Write the tokens, let all take turns, write the results."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        np.random.default_rng(0).integers(0, 50_000, _NUM_TOKENS, np.uint16).tofile(path)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for _ in range(options.rounds):
            for name, way in WAYS.items():
                batches: Any = way(str(path))
                found[name].append(quiet_turn(batches))
                batches.close()
        cache = {"state": "page cache", **residency([path])}
    rows = [_row(name, turns, found["iopipe"]) for name, turns in found.items()]
    write_results(
        options.json,
        command=f"python -m iopipe.bench.tokens_cpu --rounds {options.rounds} --json FILE",
        cache=cache,
        rows=rows,
    )
    for row in rows:
        rate = row["tokens_per_second"]["median"] / 1e6
        print(f"{row['name']:34} {rate:7.0f} M tokens/s, iopipe {row['iopipe_over_it']:.2f}x")


def _row(
    name: str, turns: list[dict[str, float]], our_turns: list[dict[str, float]]
) -> dict[str, Any]:
    """The ratio is the median over rounds, of turns that lie side by side."""
    ratios = [
        our["tokens_per_second"] / one["tokens_per_second"]
        for our, one in zip(our_turns, turns, strict=True)
    ]
    summary = {
        field: {"median": median(values), "min": min(values), "max": max(values)}
        for field in turns[0]
        if (values := [one[field] for one in turns])
    }
    return {"name": name, **summary, "iopipe_over_it": median(ratios)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Tuning from the worst start, against the best of an exhaustive sweep.

Stands beside the other benchmarks.  Invariant: the setting that 200 steps of tuning have left is
measured in runs of its own, in turns with the best ones of the sweep; the tuner never sees the
sweep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iopipe.autotune.setting import Setting
from iopipe.bench.autotune_pipelines import CASES, Case, worst_start
from iopipe.bench.harness import ForeignLoad, rows_of, write_results
from iopipe.pipeline import Pipeline

_NUM_STEPS = 200
_NUM_FINALISTS = 3
_SWEEP_SECONDS = 0.6
_FINAL_SECONDS = 2.0
_WARM_UP = 8
_MIN_STEPS = 16


def measure(name: str, case: Case, folder: Path, *, num_rounds: int) -> dict[str, Any]:
    """The tuned setting and the best of the sweep, side by side."""
    foreign = ForeignLoad()
    pipeline = case.build(folder)
    worst = worst_start(case)
    tuned, story = _tuned(pipeline, case, worst)
    swept = {
        _key(values): _rate(pipeline, case, values, seconds=_SWEEP_SECONDS)
        for values in _grid(case, worst)
    }
    best = sorted(swept, key=lambda key: -swept[key])[:_NUM_FINALISTS]
    finalists = {"tuned": tuned, "worst": worst} | {key: dict(json.loads(key)) for key in best}
    rates: dict[str, list[float]] = {key: [] for key in finalists}
    for number in range(num_rounds):
        turns = list(finalists.items())
        for key, values in turns if number % 2 else reversed(turns):
            rates[key].append(_rate(pipeline, case, values, seconds=_FINAL_SECONDS))
    middle = {key: statistics.median(found) for key, found in rates.items()}
    winner = max(best, key=lambda key: middle[key])
    return {
        "pipeline": name,
        "ratio": middle["tuned"] / middle[winner],
        "ratios_of_rounds": [a / b for a, b in zip(rates["tuned"], rates[winner], strict=True)],
        "tuned": {"values": tuned, "samples_per_second": rates["tuned"]},
        "best_of_sweep": {"values": json.loads(winner), "samples_per_second": rates[winner]},
        "worst_start": {"values": worst, "samples_per_second": rates["worst"]},
        "num_swept": len(swept),
        **story,
        "foreign_cores": foreign.cores(),
    }


def _tuned(
    pipeline: Pipeline, case: Case, worst: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, Any]]:
    """What 200 steps from the worst start find."""
    with pipeline.tuned(Setting(values=worst)).run(num_epochs=None, tune="auto") as run:
        for _ in range(_NUM_STEPS):
            next(run)
            time.sleep(case.step_ms / 1e3)
        found = run.tuning()
    kept = [step for step, decision in found.decisions if decision.what == "keep"]
    story = {
        "is_settled": found.is_settled,
        "last_kept_after_steps": kept[-1] if kept else 0,
        "decisions": [f"step {step}: {decision}" for step, decision in found.decisions],
    }
    return dict(found.setting.values), story


def _grid(case: Case, worst: Mapping[str, int]) -> list[dict[str, int]]:
    choices = itertools.product(*case.grid.values())
    return [{**worst, **dict(zip(case.grid, values, strict=True))} for values in choices]


def _rate(pipeline: Pipeline, case: Case, values: Mapping[str, int], *, seconds: float) -> float:
    """Samples/s that the loop takes, once it goes evenly."""
    with pipeline.tuned(Setting(values=values)).run(num_epochs=None) as run:
        for _ in range(_WARM_UP):
            next(run)
            time.sleep(case.step_ms / 1e3)
        num_steps = num_samples = 0
        start = time.perf_counter()
        while num_steps < _MIN_STEPS or time.perf_counter() - start < seconds:
            num_samples += len(next(run)["__key__"])
            time.sleep(case.step_ms / 1e3)
            num_steps += 1
        return num_samples / (time.perf_counter() - start)


def _key(values: Mapping[str, int]) -> str:
    return json.dumps(dict(values))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", choices=CASES, action="append", help="may be given again; other rows stay"
    )
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or CASES:
            row = measure(name, CASES[name], Path(folder), num_rounds=options.rounds)
            measured[name] = row
            _show(row)
    kept = rows_of(options.json) if options.only else {}
    found = {**kept, **measured}
    rows = [found[name] for name in CASES if name in found]
    reached = sum(row["ratio"] >= 0.95 for row in rows)
    print(f"{reached} of {len(rows)} pipelines reach 0.95 of the best of their sweep")
    write_results(
        options.json,
        command="python -m iopipe.bench.autotune",
        cache={"state": "shards are in memory, tokens in the page cache; far storage is a wait"},
        rows=rows,
    )


def _show(row: Mapping[str, Any]) -> None:
    tuned, best = row["tuned"], row["best_of_sweep"]
    print(
        f"{row['pipeline']}: {row['ratio']:.3f} of the best of {row['num_swept']}, "
        f"{statistics.median(row['worst_start']['samples_per_second']):,.0f} -> "
        f"{statistics.median(tuned['samples_per_second']):,.0f} samples/s; best "
        f"{statistics.median(best['samples_per_second']):,.0f}; "
        f"last kept after {row['last_kept_after_steps']} steps\n"
        f"  tuned {tuned['values']}\n  best  {best['values']}",
        flush=True,
    )


if __name__ == "__main__":
    main()

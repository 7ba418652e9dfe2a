"""A report and a history as a run of a training leaves them, with every kind of detail."""

from __future__ import annotations

from typing import Any

import numpy as np

from iopipe.meter.figures import NOT_INPUT
from iopipe.meter.history import History

STEP_NS = 9_000_000


def history_of(num_steps: int, *, spike: int | None = None) -> History:
    """Steps of 9 ms and more; decode grows over the run, step `spike` waits 0.4 s for storage."""
    rng = np.random.default_rng(7)
    noise = rng.gamma(2.0, 250_000, num_steps).astype(int)
    decode = rng.gamma(1.5, 900_000, num_steps) * np.linspace(0.2, 2.2, num_steps)
    storage = rng.pareto(2.5, num_steps) * 250_000
    history, clock_ns = History(), 5_000_000_000
    for n in range(num_steps):
        idle = {"decode": int(decode[n]), "storage": int(storage[n]), "h2d": 120_000}
        idle["launch"] = 90_000
        if n == spike:
            idle["storage"] = 400_000_000
        ended_ns = clock_ns + STEP_NS + int(noise[n]) + sum(idle.values())
        history.add(clock_ns, ended_ns, idle)
        clock_ns = ended_ns
    return history


def report_of(history: History, **changes: Any) -> dict[str, Any]:
    """As `Report.to_json()` gives it."""
    timeline = history.timeline()
    totals = timeline.sums.sum(axis=0).tolist()
    shares = [value / max(totals[0], 1) for value in totals[1:]]
    causes = dict(zip(timeline.causes, shares, strict=True))
    stalled = sum(share for name, share in causes.items() if name not in NOT_INPUT)
    return {
        "schema": 1,
        "num_steps": timeline.num_steps,
        "wall_seconds": totals[0] / 1e9,
        "num_samples": 256 * timeline.num_steps,
        "samples_per_second": 21_400.0,
        "attributed_stall_fraction": stalled,
        "recoverable_stall_fraction": 0.9 * stalled,
        "causes": causes,
        "lead_ms": 1.5,
        "verdict": "GPU starved 13.9 % of the time (attributed), 12.5 % recoverable: decode-bound; "
        "3 more decode threads would remove it (predicted 1.13x, interval 1.10-1.15)",
        "what_if": [
            {"change": "2x decode threads", "samples_per_second": 24_150.0, "low": 23_600.0,
             "high": 24_500.0, "bound": 24_000.0},
            {"change": "2x faster storage", "samples_per_second": 21_900.0, "low": 21_500.0,
             "high": 22_200.0, "bound": 21_800.0},
            {"change": "cached", "samples_per_second": 22_200.0, "low": 21_800.0,
             "high": 22_700.0, "bound": 22_000.0},
        ],
        "stages": [
            {"name": "read", "threads": 8, "busy": 0.22, "blocked": 0.61, "idle": 0.17},
            {"name": "decode", "threads": 6, "busy": 0.97, "blocked": 0.01, "idle": 0.02},
            {"name": "collate", "threads": 1, "busy": 0.18, "blocked": 0.02, "idle": 0.8},
            {"name": "transfer", "threads": 1, "busy": 0.09, "blocked": 0.0, "idle": 0.91},
        ],
        "environment": {"gpu": "NVIDIA H200", "torch": "2.13.0", "cores": "16"},
        **changes,
    }  # fmt: skip

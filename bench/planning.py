"""What planning a job of a thousand million samples takes: `python -m iopipe.bench.planning`.

Invariant: the source is imagined, the plan is not: it is made by the functions that a job
calls, all of its tasks are gone through, and they are checked to cover every sample once.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from iopipe.jobs import ShardOptions
from iopipe.jobs.command import plan_json
from iopipe.jobs.plan import make_plan
from iopipe.protocols import Int64Array
from iopipe.readers.rows import Rows

_SAMPLE_BYTES = 110_000.0


def measure_planning(*, num_samples: int, num_shards: int) -> dict[str, float]:
    """Plan a shuffled job from `num_shards` input shards of different sizes to as many output
    shards: seconds, and the peak of this process's memory in bytes.

    `seconds` covers the rows of the input shards, the plan, the first and the last input
    shard that an unshuffled task reads, for all tasks, and the plan as `--dry-run --json`
    prints it.
    """
    counts = _counts(num_samples, num_shards)
    start = time.perf_counter()
    rows = Rows(counts)
    options = ShardOptions(shard_samples=-(-num_samples // num_shards), shuffle_seed=1)
    plan = make_plan(options, sample_bytes=_SAMPLE_BYTES, split_sizes=[len(rows)])
    edges = np.array([(task.first, task.last) for task in plan.tasks()], np.int64)
    first_shards, _ = rows.place(edges[:, 0])
    last_shards, _ = rows.place(edges[:, 1] - 1)
    printed = plan_json(plan)
    seconds = time.perf_counter() - start
    _check(edges, num_samples, num_shards)
    assert (first_shards <= last_shards).all() and last_shards[-1] == num_shards - 1
    assert len(json.loads(printed)["tasks"]) == plan.num_tasks == num_shards
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_rss_bytes": peak_bytes, "num_tasks": plan.num_tasks}


def _counts(num_samples: int, num_shards: int) -> list[int]:
    """Sizes of shards that differ and make `num_samples`."""
    edges = np.linspace(0, num_samples, num_shards + 1).astype(np.int64)
    width = num_samples // num_shards
    edges[1:-1] += np.random.default_rng(0).integers(-width // 4, width // 4 + 1, num_shards - 1)
    counts: list[int] = np.diff(edges).tolist()
    return counts


def _check(edges: Int64Array, total: int, num: int) -> None:
    assert len(edges) == num and edges[0, 0] == 0 and edges[-1, 1] == total
    assert (edges[1:, 0] == edges[:-1, 1]).all() and (edges[:, 0] < edges[:, 1]).all()


def main() -> None:
    """Print one JSON row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--shards", type=int, default=10**6)
    options = parser.parse_args()
    print(json.dumps(measure_planning(num_samples=options.samples, num_shards=options.shards)))


if __name__ == "__main__":
    main()

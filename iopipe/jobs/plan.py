"""Which input samples go to which output shard: computed before anything is written.

Stands between a job's options and its engine.  Invariant: a plan is arithmetic; it holds
nothing that grows with the number of samples or of shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from iopipe.errors import PipelineError
from iopipe.jobs.options import ShardOptions
from iopipe.order import permute, unpermute
from iopipe.protocols import Int64Array

_FRAME_BYTES = 1280
"""Of a tar member besides its data: a header of 512, padding of 256 on average, and the
extended header that some have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One dataset that the job writes."""

    folder: str
    """Below the destination; empty where there is but one output."""
    num_samples: int
    """Input samples."""
    split: str | None
    copy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One output shard."""

    number: int
    output: Output
    shard: int
    """Its number within the output."""
    first: int
    last: int
    """Positions first .. last - 1 of the output's order go into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All tasks of a job."""

    outputs: tuple[Output, ...]
    samples_per_shard: int
    shuffle_seed: int | None

    @property
    def num_tasks(self) -> int:
        return sum(self.num_shards(output) for output in self.outputs)

    def num_shards(self, output: Output) -> int:
        return -(-output.num_samples // self.samples_per_shard)

    def task(self, number: int) -> Task:
        rest = number
        for output in self.outputs:
            if rest < self.num_shards(output):
                first = rest * self.samples_per_shard
                return Task(
                    number=number,
                    output=output,
                    shard=rest,
                    first=first,
                    last=min(first + self.samples_per_shard, output.num_samples),
                )
            rest -= self.num_shards(output)
        raise IndexError(f"task {number} of {self.num_tasks}")

    def tasks(self) -> Iterator[Task]:
        return (self.task(number) for number in range(self.num_tasks))

    def indices(self, output: Output, first: int, last: int) -> Int64Array:
        """Which of the output's input samples stand at these positions of its order."""
        positions = np.arange(first, last, dtype=np.int64)
        if self.shuffle_seed is None:
            return positions
        return permute(positions, output.num_samples, (self.shuffle_seed, output.copy))

    def positions(self, output: Output, first: int, last: int) -> Int64Array:
        """Where the output's input samples first .. last - 1 stand in its order."""
        indices = np.arange(first, last, dtype=np.int64)
        if self.shuffle_seed is None:
            return indices
        return unpermute(indices, output.num_samples, (self.shuffle_seed, output.copy))


def make_plan(options: ShardOptions, *, sample_bytes: float, split_sizes: Sequence[int]) -> Plan:
    """`split_sizes` has the number of input samples of each split, or of the whole source
    where nothing is split."""
    per_shard = options.shard_samples
    if per_shard is None:
        per_shard = max(1, round(options.shard_bytes / (sample_bytes + _FRAME_BYTES)))
    splits: list[str | None] = [name for name, _ in options.splits] or [None]
    if len(splits) != len(split_sizes):
        raise PipelineError(f"{len(splits)} splits but {len(split_sizes)} sizes")
    outputs = tuple(
        Output(
            folder="/".join(_parts(split, copy, options.copies)),
            num_samples=num_samples,
            split=split,
            copy=copy,
        )
        for copy in range(options.copies)
        for split, num_samples in zip(splits, split_sizes, strict=True)
    )
    return Plan(outputs=outputs, samples_per_shard=per_shard, shuffle_seed=options.shuffle_seed)


def _parts(split: str | None, copy: int, copies: int) -> Iterator[str]:
    if copies > 1:
        yield f"copy-{copy:03d}"
    if split is not None:
        yield split

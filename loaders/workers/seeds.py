"""Random generators keyed by sample, for datasets that draw from the global ones.

Stands around the dataset of a loader with `seed=`.  Invariant: what a dataset draws for a
sample follows from (seed, epoch, index), whichever worker asks and whatever it drew before.
"""

from __future__ import annotations

import copy
import random
import threading
from typing import Any

import numpy as np
import torch

from iopipe.draws import generator
from iopipe.errors import PipelineError

_here = threading.local()
_OWN = ("inner", "seed", "epoch", "seeds_globals")


class SeededDataset:
    """A map-style dataset whose samples are each drawn under a seed of their own.

    In the trainer's process and in worker processes the global generators of Python, numpy
    and torch are seeded before each sample; in worker threads, which share those, only
    `sample_generator` is.  Everything else is the dataset's own.
    """

    def __init__(self, dataset: Any, seed: int, *, seeds_globals: bool) -> None:
        self.inner = dataset
        self.seed = seed
        self.epoch = 0
        self.seeds_globals = seeds_globals

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What a program or a `worker_init_fn` sets is the dataset's."""
        if name in _OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)

    def __copy__(self) -> SeededDataset:
        """With a copy of the dataset: each worker thread has its own."""
        copied = SeededDataset(copy.copy(self.inner), self.seed, seeds_globals=self.seeds_globals)
        copied.epoch = self.epoch
        return copied

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: Any) -> Any:
        draws = generator(_number(index), seed=self.seed, epoch=self.epoch, op="iopipe.loader")
        words = draws.bit_generator.random_raw(3)
        _here.draws = draws
        if self.seeds_globals:
            random.seed(int(words[0]))
            np.random.seed(int(words[1]) & 0xFFFFFFFF)
            torch.manual_seed(int(words[2]) >> 1)
        return self.inner[index]

    # A dataset that fetches a batch at once would draw for all of it under one seed.
    __getitems__ = None


def sample_generator() -> np.random.Generator:
    """The generator of the sample that a loader with `seed=` is fetching in this thread."""
    found = getattr(_here, "draws", None)
    if found is None:
        raise PipelineError(
            "no sample is being fetched here: call it in a dataset's __getitem__, under a "
            "DataLoader with seed="
        )
    return found  # type: ignore[no-any-return]


def _number(index: Any) -> int:
    if isinstance(index, int | np.integer) and index >= 0:
        return int(index)
    raise PipelineError(f"seed= needs indices that are whole numbers >= 0, got {index!r}")

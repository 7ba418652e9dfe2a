"""Datasets that worker processes can import."""

from __future__ import annotations

import os
import random
import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

Pair = namedtuple("Pair", ["x", "y"])


class Numbers(Dataset[Any]):
    """Sample i is i."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Any:
        return index


class Kinds(Numbers):
    """Every kind of thing that `default_collate` knows."""

    def __getitem__(self, index: int) -> Any:
        return {
            "tensor": torch.full((2, 3), float(index)),
            "array": np.full(4, index, np.int16),
            "scalar": np.float32(index),
            "number": index,
            "float": index / 2,
            "text": f"s{index}",
            "bytes": b"b%d" % index,
            "pair": Pair(torch.tensor(index), -index),
            "tuple": (index, torch.tensor([index])),
            "list": [torch.tensor(index), index],
        }


class Bulk(Numbers):
    """Fetches whole batches."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        assert all(type(index) is int for index in indices)
        return [(index, len(indices)) for index in indices]


class Failing(Numbers):
    def __getitem__(self, index: int) -> Any:
        if index == self.num // 2:
            raise KeyError(f"sample {index} is broken")
        return index


class Draws(Numbers):
    """What each generator says, and in which process."""

    def __getitem__(self, index: int) -> Any:
        return (
            index,
            random.random(),
            float(np.random.rand()),
            float(torch.rand(())),
        )


class Info(Numbers):
    """What a worker knows of itself."""

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        assert info.dataset is self
        return info.id, info.num_workers, info.seed, id(info.dataset)


class Stream(IterableDataset[Any]):
    """0 .. num-1, shared among the workers if they are asked to."""

    def __init__(self, num: int, *, share: bool = True) -> None:
        self.num = num
        self.share = share

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        if info is None or not self.share:
            return iter(range(self.num))
        return iter(range(info.id, self.num, info.num_workers))


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.num


class UnevenStream(IterableDataset[Any]):
    """Worker k has 3 * k samples, one every `seconds`."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        for number in range(3 * info.id):
            time.sleep(self.seconds)
            yield 100 * info.id + number


class LaterStream(IterableDataset[Any]):
    """The first worker has nothing; each sample of the others takes a while."""

    def __init__(self, num: int, seconds: float) -> None:
        self.num = num
        self.seconds = seconds

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        for number in range(self.num * (info.id > 0)):
            time.sleep(self.seconds)
            yield number


class Sleepy(Numbers):
    def __init__(self, num: int, slow: int, seconds: float) -> None:
        super().__init__(num)
        self.slow = slow
        self.seconds = seconds

    def __getitem__(self, index: int) -> Any:
        if index == self.slow:
            time.sleep(self.seconds)
        return index


class Dying(Numbers):
    """The worker that gets sample 5 ends as `how` says."""

    def __init__(self, num: int, how: str) -> None:
        super().__init__(num)
        self.how = how

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            if self.how == "exit":
                os._exit(3)
            os.kill(os.getpid(), int(self.how))
            time.sleep(60)
        return index


class Counting(Numbers):
    """How many samples this copy of the dataset has been asked for."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self.asked = 0

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return self.asked


class Asked(Numbers):
    """How many samples all copies of the dataset together have been asked for."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self.num_asked = torch.zeros((), dtype=torch.int64).share_memory_()
        self.lock = torch.multiprocessing.get_context("fork").Lock()

    def __getitem__(self, index: int) -> Any:
        with self.lock:
            self.num_asked += 1
        return super().__getitem__(index)


class Places(Numbers):
    """On which CPUs the worker may run, as a bit mask."""

    def __getitem__(self, index: int) -> Any:
        return sum(1 << cpu for cpu in os.sched_getaffinity(0))


class Augmented(Numbers):
    """Draws from the global generators and, where there is one, the sample's own."""

    def __init__(self, num: int, *, keyed: bool = False) -> None:
        super().__init__(num)
        self.keyed = keyed

    def __getitem__(self, index: int) -> Any:
        if self.keyed:
            from iopipe import sample_generator

            return index, float(sample_generator().random())
        random.random()
        return index, random.random() + float(np.random.rand()) + float(torch.rand(()))


def negated(batch: list[Any]) -> Any:
    return [-item for item in batch]


def nothing(_: Any) -> None:
    return None


def first_clone(batch: list[Any]) -> Any:
    return batch[0].clone()


def remember_worker(worker_id: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.num = 10 + worker_id  # type: ignore[attr-defined]


def fail_to_begin(worker_id: int) -> None:
    raise ValueError(f"worker {worker_id} cannot begin")


class ReportsNum(Numbers):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.num

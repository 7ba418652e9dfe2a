"""The drop-in inside training frameworks, which like to put a loader of their own in its place.

Stands between `DataLoader` and Accelerate, Lightning and the like.  Invariant: a batch that a
framework hands over was made by the loader that it was given, or `which_loader` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from iopipe.errors import PipelineError
from iopipe.loaders.dataloader import DataLoader
from iopipe.loaders.workers.samplers import OrderSampler
from iopipe.loaders.workers.seeds import SeededDataset

_NOTHING = object()


def accelerate_loader(
    loader: DataLoader[Any], accelerator: Any, *, is_split: bool = False
) -> AcceleratedLoader:
    """`loader` as Accelerate's own: for `accelerator.prepare`, or HF Trainer's
    `get_train_dataloader`, which replace any other loader by a plain one.

    With several processes each must get its share: by `seed=` with `shuffle`, or by a
    DistributedSampler.  `is_split` says that dataset or sampler see to it in another way.
    `PipelineError` where neither holds.

    `accelerator.save_state()` keeps the loader's state; HF Trainer's checkpoints do not, and its
    resume reads the rest of the epoch through a plain loader (Accelerate's
    `skip_first_batches`).  Save `state_dict()` beside the checkpoint instead, load it in
    `get_train_dataloader`, and resume with `ignore_data_skip=True`.
    """
    prepared = AcceleratedLoader(loader, accelerator, is_split=is_split)
    accelerator.prepare_data_loader(prepared)  # returns it as it is, and keeps it for save_state
    return prepared


class AcceleratedLoader(torch.utils.data.DataLoader[Any]):
    """What Accelerate expects of a prepared loader, around one of iopipe's.

    `end_of_dataloader` is True from the moment the last batch is handed over, for which one
    batch is drawn ahead.  `remainder`: samples of the last gathered batch that are no
    repetition; 0 where nothing is repeated, -1 where that is not known.  All else, as
    `dataset` and `batch_size`, is the inner loader's.
    """

    _is_accelerate_prepared = True
    use_stateful_dataloader = True
    """Makes `save_state` and `load_state` ask for the state."""

    def __init__(self, loader: DataLoader[Any], accelerator: Any, *, is_split: bool) -> None:
        # A DataLoader by type, since frameworks ask for that; it is the inner one that loads.
        self.loader = loader
        self.gradient_state = accelerator.gradient_state
        self.device = accelerator.device if accelerator.device_placement else None
        self.non_blocking = bool(accelerator.non_blocking)
        self.num_processes = int(accelerator.num_processes)
        self.is_split = is_split
        self.end_of_dataloader = False
        self.remainder = -1
        self._turn: dict[str, Any] | None = None
        if self.num_processes > 1 and not is_split:
            _check_split(loader, self.num_processes)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        from accelerate.utils import send_to_device

        self.loader.set_epoch(self.loader.next_epoch)
        batches = iter(self.loader)
        turn = self._begin()
        try:
            for batch, is_last in _with_last(batches):
                if self.device is not None:
                    batch = send_to_device(batch, self.device, non_blocking=self.non_blocking)
                turn["num_yielded"] += 1
                self.end_of_dataloader = is_last
                yield batch
            if self._turn is turn:
                self._turn = None  # from here on the loader knows best
        finally:
            self._end(turn)

    def _begin(self) -> dict[str, Any]:
        """What a state holds is taken now: the loader itself will be a batch ahead."""
        self._turn = turn = {**self.loader.state_dict(), "finished": False}
        self.end_of_dataloader = False
        self.remainder = self._remainder()
        self.gradient_state._add_dataloader(self)
        return turn

    def _end(self, turn: dict[str, Any]) -> None:
        if self._turn is turn or self._turn is None:  # else another iteration has begun
            self.gradient_state._remove_dataloader(self)

    def _remainder(self) -> int:
        sampler = _sampler_of(self.loader)
        if self.num_processes == 1 or isinstance(sampler, OrderSampler):
            return 0
        if type(sampler) is not DistributedSampler or self.batch_size is None:
            return -1
        num_repeated = max(sampler.total_size - len(sampler.dataset), 0)  # type: ignore[arg-type]
        num_last = len(sampler) % self.batch_size
        if num_repeated == 0 or (self.drop_last and num_last):
            return 0
        num_last = num_last or self.batch_size
        # Each of the last ranks repeats its last sample: they end the gathered batch only if
        # that is one rank, or one sample of each.
        is_tail = num_repeated == 1 or num_last == 1
        return num_last * self.num_processes - num_repeated if is_tail else -1

    @property
    def total_batch_size(self) -> int:
        """Samples of a step, over all processes."""
        return int(self.loader.batch_size or 1) * self.num_processes

    @property
    def total_dataset_length(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    @property
    def iteration(self) -> int:
        """The epoch that comes next."""
        return self.loader.next_epoch

    def set_epoch(self, epoch: int) -> None:
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As `DataLoader.state_dict`: what was handed over, without the batch drawn ahead."""
        return self.loader.state_dict() if self._turn is None else dict(self._turn)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loader.load_state_dict(state)
        self._turn = None

    def close(self) -> None:
        self.loader.close()


def which_loader(loader: Any, *, given: Any = None) -> str:
    """Which loader really runs behind what a framework made of yours.

    Looks through the wrappers of Accelerate and Lightning: 'iopipe.DataLoader, 2 worker
    processes', or 'torch.utils.data.DataLoader, 2 worker processes (iopipe's was replaced by
    accelerate)'.  That it was replaced is seen by what `seed=` leaves behind, or by `given`,
    the loader that you handed to the framework.
    """
    if type(loader).__name__ == "CombinedLoader":  # Lightning's, around one or several
        return "; ".join(which_loader(one, given=given) for one in loader.flattened)
    frameworks = []
    while (inner := _inner(loader)) is not None:
        frameworks.append(type(loader).__module__.partition(".")[0])
        loader = inner
    answer = _described(loader)
    is_ours = isinstance(loader, DataLoader)
    if not is_ours and (_bears_marks(loader) or isinstance(given, DataLoader)):
        answer += f" (iopipe's was replaced by {frameworks[0] if frameworks else 'the framework'})"
    return answer


def _inner(loader: Any) -> Any:
    # Not getattr: wrappers hand on what they do not know, and claim their inner one's class.
    attributes = getattr(loader, "__dict__", {})
    if type(loader) is AcceleratedLoader:
        return attributes["loader"]
    return next((attributes[name] for name in _INNER if name in attributes), None)


_INNER = ("base_dataloader", "_dataloader")
"""Where Accelerate and Lightning Fabric keep the loader that they wrap."""


def _described(loader: Any) -> str:
    if isinstance(loader, DataLoader):
        kind = "iopipe.DataLoader"
    elif type(loader) is torch.utils.data.DataLoader:
        kind = "torch.utils.data.DataLoader"
    else:
        kind = f"{type(loader).__module__}.{type(loader).__qualname__}"
    num_workers = getattr(loader, "num_workers", None)
    if num_workers is None:
        return kind
    mode = getattr(loader, "worker_mode", "process")
    plural = {"process": "processes", "thread": "threads"}[mode]
    return f"{kind}, {num_workers} worker {mode if num_workers == 1 else plural}"


def _bears_marks(loader: Any) -> bool:
    dataset = getattr(loader, "dataset", None)
    return isinstance(dataset, SeededDataset) or isinstance(_sampler_of(loader), OrderSampler)


def _sampler_of(loader: Any) -> Any:
    """The innermost sampler: it decides which indices come."""
    place = getattr(loader, "batch_sampler", None)
    if place is None:
        place = getattr(loader, "sampler", None)
    for name in ("batch_sampler", "sampler"):
        while (inner := getattr(place, name, None)) is not None:
            place = inner
    return place


def _check_split(loader: DataLoader[Any], num_processes: int) -> None:
    sampler = _sampler_of(loader)
    name = "world" if isinstance(sampler, OrderSampler) else "num_replicas"
    world = getattr(sampler, name, 1)
    if isinstance(sampler, OrderSampler) and world is None:
        return
    if not isinstance(sampler, DistributedSampler) or world != num_processes:
        raise PipelineError(
            f"{num_processes} processes would each get what {type(sampler).__name__} gives to "
            f"{world}: give the loader shuffle=True and seed=, or a DistributedSampler, or say "
            "is_split=True if the dataset or sampler splits by rank itself"
        )


def _with_last(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each batch, and whether it is the last one."""
    batch = next(batches, _NOTHING)
    while batch is not _NOTHING:
        following = next(batches, _NOTHING)
        yield batch, following is _NOTHING
        batch = following

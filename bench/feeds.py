"""What keeps a training fed: a batch that lies there, iopipe, torch's DataLoader, DALI.

Stands between the files and the training step.  Invariant: all feeds give the same kind of batch
on the training's device, pixels [b, 3, size, size] normalised in channels_last (bfloat16 on a
GPU) and int64 labels [b], and none of them waits for the device.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

import iopipe
from iopipe.bench.loose_images import LooseImages
from iopipe.bench.networks import NUM_CLASSES
from iopipe.errors import MissingDependency
from iopipe.order import Tail

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Settings: TypeAlias = Mapping[str, Any]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as torchvision's presets have them."""
_NUM_SYNTHETIC = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every feed is asked for."""

    dataset: Path
    """The folder that `iopipe.bench.loader` prepared: `shards` and the same as `loose` files."""
    device: str
    batch_size: int = 256
    size: int = 224
    rank: int = 0
    world: int = 1
    settings: Settings = field(default_factory=dict)
    """Of one feed: see its function."""

    @property
    def shards(self) -> list[str]:
        return sorted(map(str, (self.dataset / "shards").glob("*.tar")))


Feed: TypeAlias = Callable[[Job], AbstractContextManager[Iterator[Batch]]]
"""An endless iterator; what it takes to make batches is there as long as the `with` block."""


@contextlib.contextmanager
def synthetic(job: Job) -> Iterator[Iterator[Batch]]:
    """Ready batches that lie on the device, in turns: input that costs nothing."""
    generator = torch.Generator(job.device).manual_seed(job.rank)
    finish = Finish(job.device, job.size)
    shape = (job.batch_size, job.size, job.size, 3)
    batches = [
        (
            finish(torch.randint(0, 256, shape, dtype=torch.uint8, **_on(job, generator))),
            torch.randint(0, NUM_CLASSES, (job.batch_size,), **_on(job, generator)),
        )
        for _ in range(_NUM_SYNTHETIC)
    ]
    yield itertools.cycle(batches)


def _on(job: Job, generator: torch.Generator) -> dict[str, Any]:
    return {"device": job.device, "generator": generator}


@contextlib.contextmanager
def from_iopipe(job: Job) -> Iterator[Iterator[Batch]]:
    """Settings: `workers` (processes, 0: threads), `threads`, `fidelity`; `engine`, of which all
    but 'cpu' have threads of their own and no workers."""
    with image_pipeline(job).run(num_epochs=None) as run:
        finish = Finish(job.device, job.size)
        yield ((finish(batch["jpg"]), batch["cls"]) for batch in run)


def image_pipeline(job: Job, *, tail: Tail = "drop", drop_last: bool = True) -> iopipe.Pipeline:
    """JPEG shards to uint8 pixels on the device; the rest is done there."""
    settings = job.settings
    engine = settings.get("engine", "cpu")
    workers = int(settings.get("workers", 0)) if engine == "cpu" else 0
    how: dict[str, Any] = {"concurrency": settings.get("threads", max(1, workers))}
    decoded = (
        iopipe.read(job.shards, columns=["jpg", "cls"])
        .shuffle(seed=0)
        .split(job.rank, job.world, tail=tail)
        .workers(workers)
        .decode(
            size=job.size,
            crop="random",
            flip=True,
            fidelity=settings.get("fidelity", "exact"),
            **(how if engine == "cpu" else {"engine": engine}),
        )
    )
    return decoded.batch(job.batch_size, drop_last=drop_last).to(job.device)


@contextlib.contextmanager
def from_torch(job: Job) -> Iterator[Iterator[Batch]]:
    """Settings: `workers`, `prefetch` (batches ahead of each)."""
    workers = int(job.settings.get("workers", 0))
    with iopipe.read(job.shards, columns=["cls"]).run() as run:
        labels = {sample["__key__"]: int(sample["cls"]) for sample in run}
    dataset = LooseImages(job.dataset / "loose", job.size, labels)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=int(job.settings.get("prefetch", 2)) if workers else None,
        pin_memory=job.device != "cpu",
    )
    finish = Finish(job.device, job.size)
    iterator: Any = None

    def batches() -> Iterator[Batch]:
        nonlocal iterator
        while True:
            iterator = iter(loader)
            for pixels, labels in iterator:
                sent = pixels.to(job.device, non_blocking=True)
                yield finish(sent), labels.to(job.device, non_blocking=True)

    try:
        yield batches()
    finally:
        # torch ends persistent workers when the iterator is collected; here they end at once.
        if workers and iterator is not None:
            iterator._shutdown_workers()


@contextlib.contextmanager
def from_dali(job: Job) -> Iterator[Iterator[Batch]]:
    """Settings: `threads`; `load`, the share of the images that the hardware engine decodes;
    `form`, 'region' (decode only that) or 'whole' (then crop), which the engine may do better."""
    iterator = _dali_iterator(job)
    finish = Finish(job.device, job.size)

    def batches() -> Iterator[Batch]:
        for (found,) in iterator:
            yield finish(found["jpg"]), labels_of(found["cls"])

    yield batches()


def _dali_iterator(job: Job) -> Any:
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator
    except ImportError as error:
        raise MissingDependency("DALI is compared with: pip install 'iopipe[dali]'") from error
    on_gpu = job.device != "cpu"
    device = "mixed" if on_gpu else "cpu"
    hardware = {"hw_decoder_load": float(job.settings.get("load", 0.65))} if on_gpu else {}

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=job.batch_size,
        num_threads=int(job.settings.get("threads", 4)),
        device_id=(torch.device(job.device).index or 0) if on_gpu else None,
        prefetch_queue_depth=2,
    )
    def graph() -> Any:
        content, label = fn.readers.webdataset(
            paths=job.shards,
            ext=["jpg", "cls"],
            random_shuffle=True,
            shard_id=job.rank,
            num_shards=job.world,
            missing_component_behavior="error",
            name="reader",
        )
        area = {"random_area": [0.08, 1.0], "random_aspect_ratio": [3 / 4, 4 / 3]}
        size = {"size": (job.size, job.size), "interp_type": types.INTERP_LINEAR}
        decoded = {"device": device, "output_type": types.RGB, **hardware}
        if job.settings.get("form", "region") == "region":
            images = fn.decoders.image_random_crop(content, **area, **decoded)
            resized = fn.resize(images, antialias=True, **size)
        else:
            images = fn.decoders.image(content, **decoded)
            resized = fn.random_resized_crop(images, antialias=True, **area, **size)
        pixels = fn.crop_mirror_normalize(
            resized,
            mirror=fn.random.coin_flip(probability=0.5),
            dtype=types.UINT8,
            output_layout="HWC",
        )
        digits = fn.pad(label, fill_value=0)
        return pixels, digits.gpu() if on_gpu else digits

    return _endless(
        lambda: DALIGenericIterator(
            [graph()],
            ["jpg", "cls"],
            reader_name="reader",
            last_batch_policy=LastBatchPolicy.DROP,
            auto_reset=True,
        )
    )


def _endless(make: Callable[[], Any]) -> Iterator[Any]:
    iterator = make()
    while True:
        yield from iterator


def labels_of(digits: torch.Tensor) -> torch.Tensor:
    """int64 [b] from decimal numbers as ASCII, uint8 [b, most digits], with zeros behind them."""
    labels = torch.zeros(len(digits), dtype=torch.int64, device=digits.device)
    for column in digits.unbind(1):
        is_digit = column >= ord("0")
        labels = torch.where(is_digit, labels * 10 + (column.long() - ord("0")), labels)
    return labels


class Finish:
    """uint8 [b, size, size, 3] on the device to what the network takes: one kernel of ours."""

    def __init__(self, device: str, size: int) -> None:
        self._device = torch.device(device)
        self._size = size
        self._known: tuple[int, Any] | None = None
        """Sizes and places of the images of a batch: made once for as many of them."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (self._by_torch if self._device.type == "cpu" else self.by_kernel)(pixels)

    def by_kernel(self, pixels: torch.Tensor) -> torch.Tensor:
        """bfloat16, in one pass."""
        from iopipe.kernels.image import transform_images
        from iopipe.kernels.image_batch import PackedImages

        if self._known is None or self._known[0] != len(pixels):
            self._known = len(pixels), _whole_images(len(pixels), self._size, self._device)
        fields, parameters, options = self._known[1]
        images = PackedImages(data=pixels.reshape(-1), **fields)
        return transform_images(images, parameters, options)

    def _by_torch(self, pixels: torch.Tensor) -> torch.Tensor:
        planes = pixels.permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return planes.sub_(mean).div_(std)


def _whole_images(number: int, size: int, device: torch.device) -> Any:
    from iopipe.kernels.image_batch import ImageOptions, ImageParameters

    sides = torch.full((number,), size, dtype=torch.int32, device=device)
    zeros = torch.zeros_like(sides)
    offsets = torch.arange(number, device=device) * (3 * size * size)
    options = ImageOptions(height=size, width=size, channels_last=True, mean=MEAN, std=STD)
    parameters = ImageParameters(crops=torch.stack([zeros, zeros, sides, sides], 1))
    return {"offsets": offsets, "heights": sides, "widths": sides}, parameters, options


FEEDS: dict[str, Feed] = {
    "synthetic": synthetic,
    "iopipe": from_iopipe,
    "torch": from_torch,
    "dali": from_dali,
}

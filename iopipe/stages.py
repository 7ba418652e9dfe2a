"""Frozen specs: what a pipeline will do, as values that can be printed and compared.

Stands between what the user types (`pipeline`) and what runs it (`engine`).  Invariant: a
spec holds no thread, no buffer and no open file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from iopipe.packing import Groups
from iopipe.protocols import (
    Allocate,
    Batch,
    ByteRange,
    Cause,
    Events,
    Samples,
    Source,
    Store,
)

Takes: TypeAlias = Literal["samples", "batch"]
"""What a stage's function gets: a `Samples` chunk, or the columns of a whole batch."""

Crop: TypeAlias = Literal["random", "center", "none"]
Fidelity: TypeAlias = Literal["exact", "scaled"]
ClipStart: TypeAlias = Literal["random", "center", "first"]
PixelType: TypeAlias = Literal["uint8", "bfloat16", "float16", "float32"]
EngineName: TypeAlias = Literal["cpu", "dali", "nvimgcodec", "hybrid"]


class Held(Protocol):
    """The function of a stage for one run, with what it holds: threads, decoders, memory."""

    @property
    def cause(self) -> Cause:
        """What a step that waits for it is starved of."""
        ...

    def __call__(self, samples: Samples) -> Samples: ...

    def notes(self) -> tuple[str, ...]:
        """What it did otherwise than its name says, how often and why."""
        ...

    def close(self) -> None:
        """Give it all back; after the last call, idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step: a function, where it runs and how many of it run at once."""

    name: str
    function: Callable[..., Any]
    takes: Takes
    cause: Cause
    """What a step that waits for this stage is starved of."""
    concurrency: int = 1
    """Threads that run `function` at the same time; the order of results is kept."""
    buffer: int = 2
    """Finished items that may wait behind the stage before it is held back."""
    scales: bool = False
    """Whether `function` may run in any number of threads at once, so that a tuner may choose."""
    fills: bool = False
    """Whether it writes what it makes into the slot of the batch, where it is the last one that
    works on samples: not for functions that may keep what they were given."""
    open: Callable[[str], Held] | None = None
    """Makes what takes the place of `function` in a run on this device ('cpu', 'cuda:1')."""
    held: Held | None = None
    """In a run: what `open` made; the run closes it."""
    whole_batches: bool = False
    """Whether it wants all samples of a batch at once."""

    def __str__(self) -> str:
        return f"{self.name} ({self.concurrency} threads, buffer {self.buffer})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Which frames of a video are decoded.

    A video with fewer than `(num_frames - 1) * stride + 1` frames is a damaged sample.
    """

    num_frames: int
    stride: int = 1
    """Every which frame: 2 leaves every other one out."""
    start: ClipStart = "random"
    """'random': each place where the clip fits is equally likely, drawn by (seed, epoch, sample
    id) as crops are; 'center': the middle of the video; 'first': its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images, and frames of videos, become arrays of one size.

    The draws of crop and flip are keyed by (seed, epoch, sample id), so that they are the
    same for any number of threads and after a resume.
    """

    size: tuple[int, int] | None = None
    """(height, width) in pixels of every output; None keeps each image's own size."""
    crop: Crop = "none"
    """'random': random-resized-crop (Szegedy et al. 2014, as torchvision draws it);
    'center': the largest centred region with the aspect ratio of `size`; 'none': the
    whole image is resized."""
    flip: bool = False
    """Mirror left-right with probability 1/2."""
    fidelity: Fidelity = "exact"
    """'exact': full-resolution decode, antialiased resize.  'scaled': JPEG's DCT-domain
    scaling first where the crop is at least twice the output; faster, slightly softer."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random crop before the resize."""
    engine: EngineName = "cpu"
    """What decodes.  'cpu': libjpeg-turbo and Pillow.  'dali': NVIDIA DALI, on the device that
    the batches go to.  'nvimgcodec': nvImageCodec, on the GPU.  'hybrid': the CPU cores, the
    GPU's JPEG engine and its CUDA decoder share every batch.  Crops and flips are the same on
    all; pixels agree within what `iopipe.loaders.decode` says of each."""
    dtype: PixelType = "uint8"
    """Of the pixels; others than uint8 are made by the engines on a GPU, in the launch that
    resizes: value / 255, less `mean`, over `std`.  The shape stays [n, height, width, 3]."""
    mean: tuple[float, ...] = ()
    """Of red, green and blue in 0..1; (): 0."""
    std: tuple[float, ...] = ()
    """(): 1."""
    max_pixels: int = 178_956_970
    """Images and clips of more pixels are refused before they are decoded (Pillow's bomb
    limit)."""
    clip: Clip | None = None
    """What is decoded of videos, by the engine 'dali': all frames of a clip are cropped, resized
    and mirrored alike, as an image is.  None: videos stay bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """What a language model takes, made of windows of tokens where the batch is delivered."""

    end_token: int | None = None
    """The token that ends a document and belongs to it: its label is `ignore_index`, and the
    batch says where documents lie.  None: a window is text without end."""
    ignore_index: int = -100
    resident: bool = False
    """Whether all tokens stay in the device's memory, where windows are taken from; else each
    batch's windows are sent there."""


Numa: TypeAlias = Literal["auto"]

Route: TypeAlias = Literal["slots", "direct", "auto"]
"""How bytes come to a device: through page-locked slots of the host, or read into the device's
memory by kvikio; 'auto' measures which is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOptions:
    """Where batches are brought, and how."""

    device: str
    is_shared: bool = False
    """Worker processes write into the slots."""
    is_direct: bool = False
    """Batches are read into the device's memory."""
    numa: Numa | None = None
    """'auto': slots lie in the memory nearest to the device, and threads on its CPUs."""
    next_token: NextToken | None = None


class Delivery(Protocol):
    """Makes batches out of chunks and brings them where the training step runs.

    Owns the slots of one run; the engine calls `collate` and `transfer` from one thread
    each, `reserve` from any.
    """

    @property
    def events(self) -> Events: ...

    def reader(self, source: Source, store: Store) -> Callable[[Samples], Samples] | None:
        """What reads samples straight to where they are delivered; None: read them as any."""
        ...

    def reserve(self, batch: Hashable, *, row: int, num_rows: int) -> Allocate:
        """Room for a chunk that begins at `row` of a batch of `num_rows`.  What it gives may
        be handed to a decoder only, since its memory is reused with the batch's."""
        ...

    def collate(self, batch: Hashable, chunks: Sequence[Samples]) -> Batch:
        """One batch out of its chunks, each tensor written once, into a host slot."""
        ...

    def repack(self, batch: Batch, columns: Mapping[str, Any]) -> Batch:
        """The batch with the columns that a user's function gave back."""
        ...

    def transfer(self, batch: Batch) -> Batch:
        """The batch on the device; `ready` is set where the copy may still be under way."""
        ...

    def close(self) -> None:
        """Let go of the free slots; those lent out follow when their batches die."""
        ...


class ReadAhead(Store, Protocol):
    """A store that reads what is to come."""

    @property
    def num_bytes(self) -> int:
        """Held at most, about."""
        ...

    def resize(self, num_bytes: int) -> None:
        """Hold about so many from now on."""
        ...


class Workers(Protocol):
    """Processes that read samples and work on them."""

    @property
    def num_workers(self) -> int: ...

    def apply(self, samples: Samples) -> Samples:
        """The samples with these ids, after all stages; for as many threads as processes."""
        ...

    def resize(self, num_workers: int) -> None:
        """Start more of them now, or end some when they have done what they are at."""
        ...

    def cpu_seconds(self) -> float:
        """That all of them have spent on a core so far."""
        ...

    def close(self) -> None:
        """End them, whatever they are at; idempotent."""
        ...


class Toolkit(Protocol):
    """What the pipeline needs of the rooms that it may not import: readers and loaders."""

    def open_store(self, source: Source) -> Store:
        """A store of its own for one run over `source`; the run closes it."""
        ...

    def read_ahead(
        self, store: Store, coming: Iterator[Sequence[ByteRange]], *, num_bytes: int
    ) -> ReadAhead:
        """A store over `store`, which it does not own, that reads `coming` before it is asked
        for and holds about `num_bytes` at most."""
        ...

    def default_read_ahead(self, source: Source) -> int:
        """Bytes to read ahead where nobody said how many; 0: none."""
        ...

    def decoder(self, options: ImageOptions) -> Callable[[Samples], Samples]:
        """A stage function that decodes on the CPU; `PipelineError` for options that no engine
        could follow."""
        ...

    def engine(self, options: ImageOptions, device: str) -> Held:
        """A decoder of another engine than 'cpu', for one run on this device."""
        ...

    def delivery(self, options: DeliveryOptions, source: Source) -> Delivery: ...

    def open_device_store(self, source: Source) -> Store:
        """One whose `submit_to_device` reads into the device's memory; the run closes it."""
        ...

    def decide(
        self, source: Source, device: str, tasks: Sequence[Sequence[int]]
    ) -> tuple[Route, str]:
        """'slots' or 'direct' for tasks of such samples, by measurement, and why."""
        ...

    def near(self, device: str) -> AbstractContextManager[None]:
        """Threads that are started within keep near `device`."""
        ...

    def starts(self, source: Source) -> Source:
        """The windows of `source` by where they begin, for a device that has their tokens."""
        ...

    def workers(
        self,
        source: Source,
        stages: Sequence[Stage],
        *,
        store: Store | None,
        num_workers: int,
        seed: int,
        near: str | None,
    ) -> Workers:
        """Processes that read `source`, each through a store of its own or a copy of `store`,
        and apply `stages`; on the CPUs and memory nearest to the device `near`."""
        ...

    def padder(self, values: Mapping[str, float]) -> Callable[[Samples], Samples]:
        """A stage function that marks columns to be padded in their batch."""
        ...

    def packed(self, source: Source, groups: Groups, *, column: str, pad_token: int) -> Source:
        """The sequences that the documents of `source` are packed into."""
        ...

    def cu_seqlens(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The columns of a packed batch, and where its documents begin."""
        ...

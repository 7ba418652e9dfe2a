"""Frozen specs: what a pipeline will do, as values that can be printed and compared.

Stands between what the user types (`pipeline`) and what runs it (`engine`).  Invariant: a
spec holds no thread, no buffer and no open file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
EngineName: TypeAlias = Literal["cpu"]


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
    fills: bool = False
    """Whether it writes what it makes into the slot of the batch, where it is the last one that
    works on samples: not for functions that may keep what they were given."""

    def __str__(self) -> str:
        return f"{self.name} ({self.concurrency} threads, buffer {self.buffer})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images become arrays of one size.

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
    """What decodes.  'cpu': libjpeg-turbo and Pillow."""
    max_pixels: int = 178_956_970
    """Images of more pixels are refused before they are decoded (Pillow's bomb limit)."""


class Delivery(Protocol):
    """Makes batches out of chunks and brings them where the training step runs.

    Owns the slots of one run; the engine calls `collate` and `transfer` from one thread
    each, `reserve` from any.
    """

    @property
    def events(self) -> Events: ...

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


class Workers(Protocol):
    """Processes that read samples and work on them."""

    @property
    def num_workers(self) -> int: ...

    def apply(self, samples: Samples) -> Samples:
        """The samples with these ids, after all stages; for as many threads as processes."""
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
    ) -> Store:
        """A store over `store`, which it does not own, that reads `coming` before it is asked
        for and holds about `num_bytes` at most."""
        ...

    def default_read_ahead(self, source: Source) -> int:
        """Bytes to read ahead where nobody said how many; 0: none."""
        ...

    def decoder(self, options: ImageOptions) -> Callable[[Samples], Samples]: ...

    def delivery(self, device: str, *, is_shared: bool) -> Delivery:
        """`is_shared`: workers write into its slots."""
        ...

    def workers(
        self,
        source: Source,
        stages: Sequence[Stage],
        *,
        store: Store | None,
        num_workers: int,
        seed: int,
    ) -> Workers:
        """Processes that read `source`, each through a store of its own or a copy of `store`,
        and apply `stages`."""
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

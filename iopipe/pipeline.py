"""The builder: what the user types, as an immutable value.

Stands at the head of the flow.  Invariant: every method returns a new pipeline or raises
`PipelineError` with the fix; nothing is opened, read or started before `run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from iopipe.autotune.budget import Budget
from iopipe.autotune.setting import Setting
from iopipe.binding import fills
from iopipe.decoding import check_engines, decode_stage
from iopipe.description import description
from iopipe.errors import PipelineError
from iopipe.launch import RunOptions, check_place, decided, launched, num_ahead
from iopipe.mapping import map_stage
from iopipe.order import Mode, Order, Stored, Tail, shuffled
from iopipe.order.bucketing import Bucketed
from iopipe.order.ranks import check_ranks, detect_ranks
from iopipe.packing import Groups, Method, Packing
from iopipe.plan import samples_in
from iopipe.protocols import ErrorPolicy, Source, Store
from iopipe.run import Run
from iopipe.sizing import batches_together, check_order, chunk_samples_of, lengths_of, plan_of
from iopipe.stages import (
    Crop,
    EngineName,
    Fidelity,
    ImageOptions,
    NextToken,
    Numa,
    Route,
    Stage,
    Toolkit,
)
from iopipe.storage.ceiling import Ceiling
from iopipe.tuned import with_setting

_RUNS_PER_WINDOW = 64
_BLOCK_BYTES = 4 << 20
"""Of a block shuffle: a read of that size costs a disk or an object store little more to begin
than to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Source, order, stages and device; build it with `iopipe.read(...)` and the methods."""

    source: Source
    toolkit: Toolkit
    order: Order
    store: Store | None = None
    """None: every run opens a store of its own and closes it."""
    stages: tuple[Stage, ...] = ()
    batch_size: int | None = None
    drop_last: bool = False
    device: str | None = None
    route: Route = "slots"
    """How bytes come to the device."""
    numa: Numa | None = None
    """Whether workers, slots and threads keep near the device."""
    prefetch: int = 2
    on_error: ErrorPolicy = "raise"
    max_errors: int = 100
    num_workers: int = 0
    """Processes that read and decode; 0: threads of this one do."""
    read_ahead_bytes: int | None = None
    """None: as the place of the data suggests; 0: what is read is what is asked for."""
    read_threads: int | None = None
    """None: as many as suit the source."""
    chunk_samples: int | None = None
    """Read and worked on together; None: as many as the size of samples suggests."""
    groups: Groups | None = None
    """How documents are packed, where they are."""
    token_options: NextToken | None = None
    """What is made of windows of tokens where they are delivered."""

    def shuffle(
        self,
        seed: int = 0,
        *,
        mode: Mode = "full",
        block_samples: int | None = None,
        window_blocks: int = 16,
        lanes: int = 8,
    ) -> Pipeline:
        """A new order every epoch.

        'full' draws from all samples.  'block' permutes blocks of `block_samples` neighbours,
        by default about 4 MiB, and mixes within windows of `window_blocks` of them, for disks
        and object stores that read long stretches faster: see `BlockShuffle`, and `iopipe
        order DATASET` for what either costs here.  'none' is as stored.
        """
        if not isinstance(self.order.sequence, Stored):
            raise PipelineError("shuffle was called before; call it once")
        if self.groups is not None:
            raise PipelineError("documents are shuffled before they are packed: call shuffle first")
        sequence = shuffled(
            mode,
            num_samples=len(self.source),
            seed=seed,
            block_samples=block_samples or samples_in(_BLOCK_BYTES, self.source),
            window_blocks=window_blocks,
            lanes=lanes,
        )
        return replace(self, order=replace(self.order, sequence=sequence))

    def split(
        self, rank: int | None = None, world: int | None = None, *, tail: Tail = "drop"
    ) -> Pipeline:
        """This rank's share of every epoch; all ranks get the same number of batches.

        Without `rank` and `world` they are those of torch.distributed where it is
        initialised, else of the launcher's environment (torchrun, Slurm, Open MPI), else 0
        and 1.  `tail`: see `Order`.
        """
        if (rank is None) != (world is None):
            raise PipelineError(f"rank is {rank} and world {world}: give both or neither")
        if rank is None or world is None:
            rank, world = detect_ranks()
        return replace(self, order=replace(self.order, rank=rank, world=world, tail=tail))

    def read_ahead(self, num_bytes: int) -> Pipeline:
        """Read what the order will ask for before it is asked for, in large reads as far as it
        goes, and hold about `num_bytes` of it at most.  By default 256 MiB for data that lies
        elsewhere, and 0 on this machine, where the kernel's cache does that.
        """
        if num_bytes < 0:
            raise PipelineError(f"read_ahead is {num_bytes} bytes; it must be 0 or more")
        return replace(self, read_ahead_bytes=num_bytes)

    def workers(self, num_workers: int) -> Pipeline:
        """Let `num_workers` processes read, decode and map, instead of threads: where many
        cores decode, threads of one process hold each other up, and the training loop too.
        What they make is written into the slots of the batches; `map` functions are sent to
        them or inherited, as with torch's workers."""
        if num_workers < 0:
            raise PipelineError(f"num_workers is {num_workers}; it must be 0 or more")
        return replace(self, num_workers=num_workers)

    def map(
        self,
        function: Callable[..., dict[str, Any] | None],
        *,
        name: str | None = None,
        random: bool = False,
        concurrency: int | Literal["auto"] = 1,
        buffer: int = 2,
    ) -> Pipeline:
        """Apply `function` to every sample, or after `batch` to the columns of every batch.

        It gets and returns a dict; None for a sample leaves that sample out.  It runs in
        `concurrency` threads, so it pays where the function lets go of the interpreter
        lock; 'auto' begins with one and lets `run(tune="auto")` add more.  Raise
        `iopipe.DataError` for a damaged sample: the error policy applies.

        With `random=True` the function gets a numpy `Generator` as its second argument, keyed
        by (seed, epoch, sample id, stage name): a sample is drawn for alike whichever thread
        or rank works on it, and after a resume.
        """
        self._refuse_after_device("map")
        batched = self.batch_size is not None
        stage_name = name or str(getattr(function, "__name__", "map"))
        if random and batched:
            raise PipelineError("random=True draws for samples; call map before batch(...)")
        if random and any(stage.name == stage_name for stage in self.stages):
            raise PipelineError(
                f"two stages named {stage_name!r} would draw the same numbers; give name="
            )
        is_auto = concurrency == "auto"
        if is_auto and any(stage.name == stage_name for stage in self.stages):
            raise PipelineError(f"two stages named {stage_name!r} cannot be tuned; give name=")
        stage = map_stage(function, stage_name, batched=batched, random=random)
        num_threads = 1 if concurrency == "auto" else concurrency
        return self._with(replace(stage, concurrency=num_threads, buffer=buffer, scales=is_auto))

    def pack(
        self,
        sequence_length: int,
        *,
        method: Method = "best_fit",
        look_ahead: int = 1024,
        column: str = "tokens",
        pad_token: int = 0,
    ) -> Pipeline:
        """Pack token documents into sequences of `sequence_length` tokens.

        Each `look_ahead` documents in a row of the epoch's order are packed together, by
        their lengths: see `iopipe.packing.pack_group`.  A batch has tokens, labels,
        position_ids and document_ids, all [b, sequence_length], and `cu_seqlens`.  Windows
        of one length over a flat token file need no packing: open it with `window=`.
        """
        if self.stages or self.batch_size is not None or self.groups is not None:
            raise PipelineError("pack works on the documents themselves: call it once, before map")
        lengths = lengths_of(self.source)
        packing = Packing(sequence_length=sequence_length, method=method, look_ahead=look_ahead)
        groups = Groups(self.order.sequence, lambda ids: lengths[ids], packing)
        source = self.toolkit.packed(self.source, groups, column=column, pad_token=pad_token)
        return replace(self, source=source, groups=groups)

    def decode(
        self,
        images: ImageOptions | None = None,
        *,
        size: int | tuple[int, int] | None = None,
        crop: Crop = "none",
        flip: bool = False,
        fidelity: Fidelity = "exact",
        engine: EngineName = "cpu",
        concurrency: int | None = None,
    ) -> Pipeline:
        """Turn the raw bytes of each field into what its extension says.

        Images become uint8 RGB, height x width x 3, all of `size` where it is given; cls
        becomes an integer, txt a str, json its object, npy an array.  `images` gives all
        options at once, instead of the keywords.  `concurrency` is the number of threads,
        by default one for each usable CPU.

        `engine` says what decodes images: see `ImageOptions`.  All but 'cpu' take a batch at a
        time, two of them at once by default, with threads of their own.  On a GPU images are
        there from the start, so functions that `map` applies do not see them.
        """
        if self.batch_size is not None:
            raise PipelineError("decode works on samples; call it before batch(...)")
        options = images or ImageOptions(
            size=(size, size) if isinstance(size, int) else size,
            crop=crop,
            flip=flip,
            fidelity=fidelity,
            engine=engine,
        )
        return self._with(decode_stage(self.toolkit, options, concurrency))

    def bucket(self, samples: int, *, window: int | None = None) -> Pipeline:
        """Let samples of like length come together, in runs of `samples`: give batch size times
        ranks.  Each `window` of the epoch, by default 64 runs, is sorted by length and its
        runs are shuffled; call it after shuffle, and see `batch(pad=...)`.
        """
        lengths = lengths_of(self.source)
        if self.groups is not None or isinstance(self.order.sequence, Bucketed):
            raise PipelineError("bucket works on the samples of a source: call it once, not packed")
        sequence = Bucketed(
            inner=self.order.sequence,
            lengths=lambda ids: lengths[ids],
            samples=samples,
            window=window or _RUNS_PER_WINDOW * samples,
        )
        return replace(self, order=replace(self.order, sequence=sequence))

    def batch(
        self,
        batch_size: int,
        *,
        drop_last: bool = False,
        pad: Mapping[str, float] | None = None,
    ) -> Pipeline:
        """Collate `batch_size` samples into tensors whose first dimension is the sample.

        `pad` names columns whose rows differ in length and the value to fill them up with:
        the batch has [b, longest, ...] of each, and `NAME_lengths`.
        """
        if batch_size < 1:
            raise PipelineError(f"batch size is {batch_size}; it must be at least 1")
        if self.batch_size is not None:
            raise PipelineError("batch was called before; call it once")
        if pad:
            stage = Stage(
                name="pad", function=self.toolkit.padder(pad), takes="samples", cause="collate"
            )
            return self._with(stage).batch(batch_size, drop_last=drop_last)
        batched = replace(self, batch_size=batch_size, drop_last=drop_last)
        return batched if self.groups is None else batched.map(self.toolkit.cu_seqlens)

    def next_token(
        self, *, end_token: int | None = None, ignore_index: int = -100, resident: bool = False
    ) -> Pipeline:
        """Make `inputs` and `labels`, int64 [b, window - 1], of windows of tokens: on the device
        that batches go to, out of the bytes as they are stored.

        With `end_token` a label behind a document's end is `ignore_index`, and the batch also
        has position_ids and document_ids, int32 as the inputs, cu_seqlens and num_documents: see
        `iopipe.kernels.token_batch.TokenBatch`.  With `resident=True` a GPU takes all tokens into
        its memory when the run begins, and each batch's windows from there.
        """
        if not fills(self.source) or self.stages or self.groups is not None:
            raise PipelineError(
                "next_token works on windows of a token file: read(..., window=n), without map, "
                "decode or pack"
            )
        options = NextToken(end_token=end_token, ignore_index=ignore_index, resident=resident)
        return replace(self, token_options=options)

    def to(
        self, device: str, *, prefetch: int = 2, path: Route = "slots", numa: Numa | None = None
    ) -> Pipeline:
        """Deliver batches on `device` ('cpu', 'cuda', 'cuda:1'), `prefetch` of them ahead.

        `path='direct'` lets kvikio read rows of numbers into the device's memory, past the
        host's: for batches of neighbours, which are few long reads; 'auto' measures whether
        that pays here, and `describe()` says what came out.  `numa='auto'` keeps
        the memory nearest to the device, this rank's share of them.
        """
        if self.batch_size is None:
            raise PipelineError("only batches move to a device; call batch(n) before to(...)")
        self._refuse_after_device("to")
        if prefetch < 1:
            raise PipelineError(f"prefetch is {prefetch}; it must be at least 1")
        placed = replace(self, device=device, prefetch=prefetch, route=path, numa=numa)
        check_place(placed)
        return placed

    def tuned(self, setting: Setting | str | os.PathLike[str]) -> Pipeline:
        """The same pipeline as a tuner set it: `run.tuning().setting`, or the file that `iopipe
        tune pipeline --out` wrote.  `PipelineError` where it was another pipeline."""
        found = setting if isinstance(setting, Setting) else Setting.load(setting)
        return with_setting(self, found)

    def check_ranks(self) -> None:
        """Make sure that all ranks of an initialised torch.distributed go through the same
        data in the same order; a collective, so all of them call it.  `StateError` names the
        ranks that differ."""
        plan = plan_of(self, None)
        share = {name: value for name, value in plan.share().items() if name != "rank"}
        check_ranks({"dataset": self.source.digest, **plan.identity(), **share})

    def run(
        self,
        *,
        epoch: int = 0,
        num_epochs: int | None = 1,
        in_order: bool = True,
        window: int = 8,
        ledger: str | os.PathLike[str] | None = None,
        tune: Literal["auto"] | Budget | None = None,
        ceiling: Ceiling | None = None,
    ) -> Run:
        """Start at `epoch` and go on for `num_epochs`, without end where that is None.

        With `in_order=False` batches come as they are ready, from among the `window` oldest
        that were not delivered: a slow sample holds up its own batch only.  Which samples
        make up a batch, and a resumed run, stay as exact as they are in order.

        `ledger` is a folder in which every rank and start logs what it was delivered, for
        `iopipe audit`.

        `tune="auto"`, or a `Budget`, changes threads, batches ahead and sizes of reads while it
        runs, until the step starves no more or nothing helps: see `Run.tuning`.  With a `ceiling`,
        from `iopipe.measure_storage`, the report says which share of it was read.
        """
        check_order(self, in_order=in_order, window=window)
        if self.num_workers and self.read_ahead_bytes:
            raise PipelineError("workers read what they are asked for: leave read_ahead out")
        check_engines(self.stages, self.device or "cpu", self.num_workers)
        options = RunOptions(
            epoch=epoch,
            end_epoch=None if num_epochs is None else epoch + num_epochs,
            window=None if in_order else window,
            ledger=ledger,
            tune=tune,
            ceiling=ceiling,
        )
        return launched(replace(self, route=decided(self)[0]), options)

    def describe(self) -> str:
        """What a run will do, a line a stage."""
        route, reason = decided(self)
        here = replace(self, route=route)
        num_samples = chunk_samples_of(here, batches_together(here))
        return description(here, num_samples, num_ahead(here), (route, reason))

    # ---- how it is put together ------------------------------------------------------

    def _with(self, stage: Stage) -> Pipeline:
        if self.token_options is not None:
            raise PipelineError(
                f"{stage.name} cannot follow next_token, which takes windows as they are stored; "
                "do it in the step"
            )
        if stage.concurrency < 1 or stage.buffer < 1:
            raise PipelineError(
                f"stage {stage.name!r} has concurrency {stage.concurrency} and buffer "
                f"{stage.buffer}; both must be at least 1"
            )
        return replace(self, stages=(*self.stages, stage))

    def _refuse_after_device(self, method: str) -> None:
        if self.device is not None:
            raise PipelineError(
                f"{method} cannot follow to(...); call it before, or do it in the step"
            )

"""Inputs and labels of a batch of windows, made where the batch is delivered.

Stands behind the copy to the device, on its stream, or at the end of the host's way.  Invariant:
what is made depends on the windows alone: a device that holds all tokens, one that is sent each
batch's, and the host make the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from iopipe.errors import PipelineError
from iopipe.loaders.arena import Place, aligned
from iopipe.protocols import Event, Events, Store
from iopipe.readers.tokens import COLUMN, TokenSource
from iopipe.readers.window_starts import START
from iopipe.stages import NextToken

if TYPE_CHECKING:
    from iopipe.kernels.token_batch import TokenOptions

_PIECE_BYTES = 32 << 20
_TOKENS_A_DOCUMENT = 16
"""On average at least: more documents than that do not fit into `cu_seqlens`."""
_OF_DOCUMENTS = ("position_ids", "document_ids", "cu_seqlens", "num_documents")


class PoolLink(Protocol):
    """What it takes to fill a pool on a device."""

    @property
    def events(self) -> Events: ...

    def allocate_host(self, num_bytes: int) -> torch.Tensor: ...

    def allocate_device(self, num_bytes: int) -> torch.Tensor: ...

    def send(self, target: torch.Tensor, source: torch.Tensor, after: Event | None) -> Event: ...


class NextTokenStep:
    """Makes the columns of one run's batches; for the thread that transfers."""

    def __init__(
        self, options: NextToken, source: TokenSource, open_store: Callable[[], Store]
    ) -> None:
        """`open_store` gives the store that all tokens are read from where they are resident;
        it is closed then."""
        if source.window is None or source.window < 2:
            raise PipelineError("next_token needs windows of 2 tokens or more: read(..., window=n)")
        self._dtype = _device_dtype(source.dtype)
        self._options = options
        self._source = source
        self._length = source.window - 1
        self._open_store = open_store
        self._pool: torch.Tensor | None = None
        self._state: torch.Tensor | None = None

    def places(self, layout: Mapping[str, Place], end: int) -> tuple[dict[str, Place], int]:
        """Where in a device's slot the results go, behind the `end` bytes that were sent, and
        where they end."""
        (rows, *_) = layout[self._needed].shape
        found: dict[str, Place] = {}
        for name, (shape, dtype) in self._shapes(rows).items():
            found[name] = Place(aligned(end), shape, np.dtype(dtype))
            end = found[name].offset + found[name].num_bytes
        return found, end

    def prepare(self, link: PoolLink) -> None:
        """Read all tokens into the device's memory, where they are to be resident; blocks, and
        does nothing the next time."""
        if not self._options.resident or self._pool is not None:
            return
        with contextlib.closing(self._open_store()) as store:
            self._pool = _filled_pool(self._source, store, link).view(self._dtype)

    def make(self, columns: Mapping[str, torch.Tensor]) -> None:
        """Enqueue on the current stream what fills the tensors of `places`."""
        names = [name for name in self._shapes(0) if name in columns]
        made = {name: columns[name] for name in names}
        if columns[self._needed].is_cuda:
            self._launch(columns[self._needed], made)
            return
        for name, tensor in self._on_host(columns[self._needed]).items():
            made[name].copy_(tensor)

    def on_host(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The batch where it stays on the host."""
        rest = {name: value for name, value in columns.items() if name != self._needed}
        return {**rest, **self._on_host(columns[self._needed])}

    def result(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """What of these columns is delivered."""
        hidden = {self._needed, *(set(_OF_DOCUMENTS) - set(self._named))}
        return {name: value for name, value in columns.items() if name not in hidden}

    @property
    def _needed(self) -> str:
        return START if self._options.resident else COLUMN

    @property
    def _named(self) -> tuple[str, ...]:
        is_one = self._options.end_token is None
        return ("inputs", "labels") if is_one else ("inputs", "labels", *_OF_DOCUMENTS)

    def _shapes(self, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
        shape = (rows, self._length)
        most = self._most_documents(rows)
        return {
            "inputs": (shape, "int64"),
            "labels": (shape, "int64"),
            "position_ids": (shape, "int32"),
            "document_ids": (shape, "int32"),
            "cu_seqlens": ((most + 1,), "int32"),
            "num_documents": ((1,), "int32"),
        }

    def _most_documents(self, rows: int) -> int:
        return max(1, rows, rows * self._length // _TOKENS_A_DOCUMENT)

    def _token_options(self, rows: int) -> TokenOptions:
        from iopipe.kernels.token_batch import TokenOptions

        return TokenOptions(
            end_token=self._options.end_token,
            max_documents=self._most_documents(rows),
            ignore_index=self._options.ignore_index,
        )

    def _on_host(self, given: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._pool is not None:
            places = given[:, None] + torch.arange(self._length + 1)
            given = _signed(self._pool)[places].view(self._dtype)
        signed = _signed(given.view(self._dtype))
        tokens = signed.to(torch.int64) & 2 ** (8 * signed.element_size()) - 1
        if self._options.end_token is None:
            return {"inputs": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
        from iopipe.kernels.tokens_twin import pack_tokens_twin

        batch = pack_tokens_twin(tokens, self._token_options(len(given)))
        return {name: getattr(batch, name) for name in self._named}

    def _launch(self, given: torch.Tensor, made: dict[str, torch.Tensor]) -> None:
        from iopipe.kernels.token_batch import (
            STATE_WORDS,
            TokenBatch,
            TokenRows,
            Windows,
            WindowsAt,
        )
        from iopipe.kernels.tokens import pack_tokens

        if self._state is None:
            self._state = torch.zeros(STATE_WORDS, dtype=torch.int64, device=given.device)
        windows: Windows
        if self._pool is None:
            windows = TokenRows(given.view(self._dtype))
        else:
            windows = WindowsAt(pool=self._pool, starts=given, length=self._length)
        out = TokenBatch(**made, state=self._state)
        pack_tokens(windows, self._token_options(len(given)), out=out)


def _signed(tokens: torch.Tensor) -> torch.Tensor:
    """The same bits; torch has few operations on unsigned numbers."""
    signed: torch.Tensor = tokens.view(torch.int16 if tokens.dtype == torch.uint16 else torch.int32)
    return signed


def _device_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """As the kernel takes tokens: unsigned."""
    found = {"uint16": torch.uint16, "uint32": torch.uint32, "int32": torch.uint32}.get(dtype.name)
    if found is None:
        raise PipelineError(
            f"next_token takes tokens of uint16, uint32 or int32; these are {dtype}: write them so"
        )
    return found


def _filled_pool(source: TokenSource, store: Store, link: PoolLink) -> torch.Tensor:
    """The tokens of all shards one after the other, as bytes on the device."""
    sizes = [num * source.dtype.itemsize for num in source.pool_tokens]
    pool = link.allocate_device(max(sum(sizes), 1))
    halves = link.allocate_host(2 * _PIECE_BYTES).view(2, _PIECE_BYTES)
    sent: list[Event | None] = [None, None]
    number = begin = 0
    for shard, size in zip(source.shards, sizes, strict=True):
        for offset in range(0, size, _PIECE_BYTES):
            which = number % 2
            if (event := sent[which]) is not None:
                link.events.synchronize(event)
            half = halves[which][: min(_PIECE_BYTES, size - offset)]
            if store.read_into(shard, offset, half.numpy().data) < len(half):
                raise PipelineError(f"{shard!r} became shorter since it was opened: open it again")
            target = pool[begin + offset : begin + offset + len(half)]
            sent[which] = link.send(target, half, None)
            number += 1
        begin += size
    for event in sent:
        if event is not None:
            link.events.synchronize(event)
    return pool[: sum(sizes)]

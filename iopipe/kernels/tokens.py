"""Tokens to what a language model takes: inputs, labels, positions, documents, in one launch.

Stands after the transfer, or instead of it where a pool of tokens lives on the device.
Invariant: nothing waits for the host, and the grid changes no bit: which program handles
which tile decides only when it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch.library import triton_op, wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels.border import (
    check_budget,
    check_place,
    check_tensor,
    chosen,
    num_programs,
    to_words,
)
from iopipe.kernels.token_batch import (
    STATE_WORDS,
    TokenBatch,
    TokenOptions,
    TokenRows,
    Windows,
    WindowsAt,
    WindowsInOrder,
)
from iopipe.kernels.token_kernel import FUNCTIONS, pack_kernel
from iopipe.kernels.tuning import Config, Kernel, Problem
from iopipe.kernels.window_order import NUM_WORDS

_BLOCKS = ("block", "programs")
_TOKEN_DTYPES = (torch.uint16, torch.uint32)


def pack_tokens(
    windows: Windows,
    options: TokenOptions,
    *,
    out: TokenBatch | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> TokenBatch:
    """Widen, shift and annotate windows of tokens; see `TokenBatch` for what comes out.

    `windows` are uint16 or uint32, in one of three forms: `TokenRows` (a batch that was
    transferred), `WindowsAt` (places in a pool) or `WindowsInOrder` (an epoch's permutation of
    a pool, computed on the device).  What a window reaches beyond its pool reads as token 0
    and has the label `ignore_index`.

    Give `out` from `TokenBatch.empty` to write into a slot: then nothing is allocated, and the
    call is one launch.  Two launches that may run at once need two of them.  `max_programs`
    bounds the programs, and so the share of the GPU.  Raises `PipelineError` for tensors of
    another kind or place.
    """
    check_budget(max_programs)
    tokens, starts, order, position, num_rows, length, stride, step = _source(windows)
    if out is None:
        out = TokenBatch.empty(num_rows, length, options, device=tokens.device)
    _check_out(out, tokens, options, (num_rows, length))
    check_place("tokens", tokens)
    _pack(
        tokens,
        starts,
        order,
        position,
        out.inputs,
        out.labels,
        out.position_ids,
        out.document_ids,
        out.cu_seqlens,
        out.num_documents,
        out.state,
        stride,
        step,
        -1 if options.end_token is None else options.end_token,
        options.ignore_index,
        max_programs,
        to_words(config, _BLOCKS),
    )
    return out


_Source = tuple[
    torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, int, int, int, int
]


def _source(windows: Windows) -> _Source:
    """(tokens, starts, order, position, rows, length, stride, step), checked."""
    if isinstance(windows, TokenRows):
        tokens = windows.tokens
        if tokens.dim() != 2 or tokens.shape[1] < 2:
            raise PipelineError(
                f"tokens have shape {tuple(tokens.shape)}: give [rows, length + 1], length 1 "
                "or more"
            )
        check_tensor("tokens", tokens, like=tokens, dtypes=_TOKEN_DTYPES)
        num_rows, width = tokens.shape
        return tokens, None, None, None, num_rows, width - 1, width, 0
    pool = windows.pool
    check_tensor("the pool", pool, like=pool, dtypes=_TOKEN_DTYPES, shape=(pool.numel(),))
    if windows.length < 1:
        raise PipelineError(f"length is {windows.length}: give 1 or more")
    if isinstance(windows, WindowsAt):
        starts = windows.starts
        shape = (starts.numel(),)
        check_tensor("starts", starts, like=pool, dtypes=(torch.int64,), shape=shape)
        return pool, starts, None, None, starts.numel(), windows.length, 0, 0
    return _ordered(windows)


def _ordered(windows: WindowsInOrder) -> _Source:
    pool, order, position = windows.pool, windows.order, windows.position
    kind = (torch.int64,)
    check_tensor("the order", order, like=pool, dtypes=kind, shape=(order.numel(),))
    check_tensor("the position", position, like=pool, dtypes=kind, shape=(1,))
    if order.numel() < NUM_WORDS or (order.numel() - NUM_WORDS) % 2:
        raise PipelineError(f"the order has {order.numel()} words: make it with window_order")
    if windows.num_rows < 0 or windows.step < 1:
        raise PipelineError(
            f"num_rows is {windows.num_rows} and step {windows.step}: give 0 or more, 1 or more"
        )
    stride = windows.length if windows.stride is None else windows.stride
    return pool, None, order, position, windows.num_rows, windows.length, stride, windows.step


def _check_out(
    out: TokenBatch, tokens: torch.Tensor, options: TokenOptions, shape: tuple[int, int]
) -> None:
    rows = {"inputs": options.dtype, "labels": options.dtype}
    rows |= {"position_ids": torch.int32, "document_ids": torch.int32}
    for name, dtype in rows.items():
        check_tensor(name, getattr(out, name), like=tokens, dtypes=(dtype,), shape=shape)
    ends, narrow = (options.max_documents + 1,), (torch.int32,)
    check_tensor("cu_seqlens", out.cu_seqlens, like=tokens, dtypes=narrow, shape=ends)
    check_tensor("num_documents", out.num_documents, like=tokens, dtypes=narrow, shape=(1,))
    words = (STATE_WORDS,)
    check_tensor("state", out.state, like=tokens, dtypes=(torch.int64,), shape=words)


@triton_op(
    "iopipe::pack_tokens",
    mutates_args=(
        "inputs",
        "labels",
        "position_ids",
        "document_ids",
        "cu_seqlens",
        "num_documents",
        "state",
    ),
)
def _pack(
    tokens: torch.Tensor,
    starts: torch.Tensor | None,
    order: torch.Tensor | None,
    position: torch.Tensor | None,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    position_ids: torch.Tensor,
    document_ids: torch.Tensor,
    cu_seqlens: torch.Tensor,
    num_documents: torch.Tensor,
    state: torch.Tensor,
    stride: int,
    step: int,
    end_token: int,
    ignore_index: int,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    num_rows, length = inputs.shape
    if num_rows == 0:
        num_documents.zero_()
        cu_seqlens.zero_()
        return
    dtypes = (str(tokens.dtype).removeprefix("torch."), str(inputs.dtype).removeprefix("torch."))
    problem = Problem(dtypes=dtypes, shape={"rows": num_rows, "length": length})
    config = chosen(KERNEL, problem, words, _BLOCKS)
    block = config.blocks["block"]
    tiles_a_row = triton.cdiv(length, block)
    num_tiles = num_rows * tiles_a_row
    at_most = min(config.blocks["programs"], STATE_WORDS - 1)
    programs = num_programs(num_tiles, max_programs, at_most=at_most)
    tiles_a_program = triton.cdiv(num_tiles, programs)
    programs = triton.cdiv(num_tiles, tiles_a_program)
    wrap_triton(pack_kernel)[(programs,)](
        tokens,
        tokens if starts is None else starts,
        tokens if order is None else order,
        tokens if position is None else position,
        inputs,
        labels,
        position_ids,
        document_ids,
        cu_seqlens,
        num_documents,
        state,
        tokens.numel(),
        num_rows,
        length,
        stride,
        step,
        end_token,
        ignore_index,
        cu_seqlens.numel() - 1,
        tiles_a_row,
        tiles_a_program,
        STARTS=starts is not None,
        ROUNDS=0 if order is None else order.numel() - NUM_WORDS,
        PROGRAMS=triton.next_power_of_2(programs),
        DEPARTED=STATE_WORDS - 1,
        BLOCK=block,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@_pack.register_fake  # type: ignore[untyped-decorator]
def _(*args: object) -> None:
    """Everything is written in place."""


def _heuristic(problem: Problem) -> Config:
    """Eight values a thread, and no more programs than an H200 holds at once: four of 128
    threads and 128 registers on each of 132 processors.  Others come in a second wave."""
    block = min(1024, max(256, triton.next_power_of_2(problem.shape["length"])))
    return Config(blocks={"block": block, "programs": 528}, num_warps=block // 256)


def _candidates(problem: Problem) -> Sequence[Config]:
    tried = [
        Config(blocks={"block": block, "programs": programs}, num_warps=num_warps)
        for block in (512, 1024, 2048, 4096)
        for num_warps in (4, 8)
        for programs in (528, 1056, 2048)
        if 4 <= block // num_warps // 32 <= 16
    ]
    return [_heuristic(problem), *tried]


KERNEL = Kernel(
    name="tokens",
    functions=FUNCTIONS,
    heuristic=_heuristic,
    candidates=_candidates,
)

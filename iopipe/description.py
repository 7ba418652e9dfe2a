"""What a pipeline will do, in words.

Stands beside the builder.  Invariant: it says what runs, not what was asked for.
"""

from __future__ import annotations

from typing import Protocol

from iopipe.binding import read_threads
from iopipe.packing import Groups, padding_share
from iopipe.sizing import Sized
from iopipe.stages import NextToken, Route


class Described(Sized, Protocol):
    """What is asked of a pipeline."""

    @property
    def device(self) -> str | None: ...

    @property
    def prefetch(self) -> int: ...


def description(
    pipeline: Described, chunk_samples: int, ahead_bytes: int, route: tuple[Route, str]
) -> str:
    """A line a stage; `route` is how bytes come to the device, and why."""
    source, order = pipeline.source, pipeline.order
    lines = [
        f"source: {len(source)} samples in {len(source.shards)} shards, "
        f"fields {', '.join(source.columns)}",
        f"order: {order.sequence.describe()}, rank {order.rank} of {order.world}",
    ]
    if pipeline.groups is not None:
        lines.append(_packing(pipeline.groups))
    lines += _work(pipeline, chunk_samples, ahead_bytes)
    if pipeline.batch_size is not None:
        tail = ", last one dropped if short" if pipeline.drop_last else ""
        lines.append(f"batch: {pipeline.batch_size} samples{tail}")
        if pipeline.token_options is not None:
            lines.append(_tokens(pipeline.token_options))
        place = pipeline.device or "cpu"
        lines.append(f"deliver: on {place}, {pipeline.prefetch} batches ahead{_way(*route)}")
    return "\n".join(lines)


def _work(pipeline: Described, chunk_samples: int, ahead_bytes: int) -> list[str]:
    chunks = f"chunks of {chunk_samples} samples"
    if pipeline.num_workers:
        names = [stage.name for stage in pipeline.stages if stage.takes == "samples"]
        rest = [str(stage) for stage in pipeline.stages if stage.takes == "batch"]
        done = ", ".join(["read", *names])
        return [f"workers: {done}, {chunks} ({pipeline.num_workers} processes)", *rest]
    ahead = f", {ahead_bytes >> 20} MiB ahead" if ahead_bytes else ""
    return [
        f"read: {chunks} ({read_threads(pipeline.source)} threads){ahead}",
        *map(str, pipeline.stages),
    ]


def _way(route: Route, reason: str) -> str:
    if route == "slots" and not reason:
        return ""
    return f", path {route}{f' ({reason})' if reason else ''}"


def _tokens(options: NextToken) -> str:
    where = "resident on the device" if options.resident else "sent as they are stored"
    end = "" if options.end_token is None else f", documents end with {options.end_token}"
    return f"next token: inputs and labels, tokens {where}{end}"


def _packing(groups: Groups) -> str:
    packing = groups.packing
    return (
        f"pack: {packing.method} into sequences of {packing.sequence_length}, "
        f"{packing.look_ahead} documents at a time, {100 * padding_share(groups):.1f} % padding"
    )

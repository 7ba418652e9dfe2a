"""Whether reads straight into a device's memory pay, by measurement on this machine.

Stands beside the two ways that it compares.  Invariant: both ways move the same ranges of the
same file, in turns; the numbers are the reason that is given.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Protocol, cast

import numpy as np

from iopipe.errors import MissingDependency, StorageError
from iopipe.loaders.delivery import Link
from iopipe.loaders.direct import DeviceStore, SpanSource
from iopipe.protocols import ByteRange, ReadRequest, Source, Store
from iopipe.stages import Route
from iopipe.storage.device import DeviceRead

_ROUNDS = 5
_MAX_BYTES = 256 << 20


class Stores(Protocol):
    """What opens the stores of the two ways, and the way to the device."""

    def open_store(self, source: Source) -> Store: ...

    def open_device_store(self, source: Source) -> Store: ...

    def link(self, device: str) -> Link: ...


def decide(
    stores: Stores, source: Source, device: str, tasks: Sequence[Sequence[int]]
) -> tuple[Route, str]:
    """The faster way for ranges as those of `tasks`, and why; 'slots' where the other one is
    not there.  Takes some tenths of a second, and a second or two for the probe of kvikio."""
    with contextlib.closing(stores.open_store(source)) as store:
        ranges = ranges_of(cast(SpanSource, source), tasks, store)
    if not ranges:
        return "slots", "auto: there is nothing to read"
    try:
        device_store = stores.open_device_store(source)
    except (MissingDependency, StorageError) as error:
        return "slots", f"auto: {error}"
    with contextlib.closing(device_store), contextlib.closing(stores.open_store(source)) as store:
        link = stores.link(device)
        slots, direct = compare(link, store, cast(DeviceStore, device_store), ranges)
    mean = sum(part.length for part in ranges) / len(ranges)
    route: Route = "direct" if direct > slots else "slots"
    return route, (
        f"auto: in ranges of {mean / 1024:,.0f} KiB direct reads bring {direct:.1f} GB/s here, "
        f"slots {slots:.1f}"
    )


def ranges_of(source: SpanSource, tasks: Sequence[Sequence[int]], store: Store) -> list[ByteRange]:
    """What direct reads of these tasks would read, up to a quarter of a GiB."""
    found: list[ByteRange] = []
    num_bytes = 0
    for task in tasks:
        for spans in source.row_spans(np.asarray(task, np.int64), store):
            for shard, offset, _, count in spans.runs():
                length = min(count * spans.row_bytes, _MAX_BYTES)
                if found and num_bytes + length > _MAX_BYTES:
                    return found
                found.append(ByteRange(source.shards[shard], offset, length))
                num_bytes += length
    return found


def compare(
    link: Link, store: Store, device_store: DeviceStore, ranges: Sequence[ByteRange]
) -> tuple[float, float]:
    """GB/s through a slot of the host, and straight; medians of some rounds in turns."""
    ends = np.cumsum([part.length for part in ranges]).tolist()
    target, host = link.allocate_device(ends[-1]), link.allocate_host(ends[-1])
    places = list(zip([0, *ends[:-1]], ends, ranges, strict=True))

    def through_slot() -> None:
        memory = host.numpy().data
        requests = [ReadRequest(r.path, r.offset, memory[a:b]) for a, b, r in places]
        store.submit(requests).wait()
        link.events.synchronize(link.send(target, host[: ends[-1]], None))

    def straight() -> None:
        pieces: list[Any] = [target[a:b] for a, b, _ in places]
        requests = [
            DeviceRead(r.path, r.offset, piece)
            for piece, (_, _, r) in zip(pieces, places, strict=True)
        ]
        device_store.submit_to_device(requests).wait()

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS + 1):
        for seconds, way in zip(times, (through_slot, straight), strict=True):
            seconds.append(_timed(way))
    slots, direct = (ends[-1] / median(seconds[1:]) / 1e9 for seconds in times)
    return slots, direct


def _timed(way: Callable[[], None]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start

"""Host memory to GPU through kvikio, ours beside raw: `python -m iopipe.bench.storage.gpu_bar`.

Reads a file of a tmpfs and one in the page cache into GPU memory, `GdsStore` and a bare
`kvikio.CuFile.pread` in turns, with the same threads and tasks.  Invariant: what was read is
checked block by block, and the path is named as `gds_probe` proved it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from iopipe.bench.harness import residency, write_results
from iopipe.bench.storage.lanes import cuda_torch
from iopipe.bench.storage.targets import Target
from iopipe.errors import DataError
from iopipe.jobs.command import size_in_bytes
from iopipe.storage.device import DeviceRead
from iopipe.storage.gds import GdsStore

_STAMP_BYTES = 16 << 20
_WRITERS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch = cuda_torch()
    rows = [_copy_peak(torch)]
    places = (("tmpfs", options.memory_folder), ("page cache", options.disk_folder))
    for name, folder in places:
        try:
            with _file(Path(folder), options.size) as path:
                rows.append({"name": name, **_measured(path, options, torch)})
        except Exception as error:
            # The other place may still be measured; the exit code says that this was not.
            traceback.print_exc()
            rows.append({"name": name, "error": f"{type(error).__name__}: {error}"})
        print(json.dumps(rows[-1]), flush=True)
        _write(options, rows)
    return 1 if any("error" in row for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m iopipe.bench.storage.gpu_bar")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--size", type=size_in_bytes, default=8 << 30, help="of each file (8GiB)")
    parser.add_argument("--num-threads", type=int, default=16, help="of kvikio (16)")
    parser.add_argument("--task-size", type=size_in_bytes, default=16 << 20, help="(16MiB)")
    parser.add_argument("--rounds", type=int, default=6, help="A B B A ... (6)")
    parser.add_argument("--memory-folder", default="/dev/shm", help="a tmpfs (/dev/shm)")
    parser.add_argument("--disk-folder", default=".", help="on a disk (.)")
    return parser


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    if options.json is not None:
        write_results(
            options.json,
            command="python -m iopipe.bench.storage.gpu_bar --json FILE",
            cache={"state": "warm", "resident": [row.get("resident_fraction") for row in rows]},
            rows=rows,
        )


@contextmanager
def _file(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A file whose every block of 16 MiB begins with its number; written by several threads, and
    left in memory."""
    path = folder / f"iopipe-gpu-bar-{os.getpid()}.tmp"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        starts = range(0, num_bytes, _STAMP_BYTES)
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(lambda start: _write_block(descriptor, start, num_bytes), starts))
        yield path
    finally:
        os.close(descriptor)
        path.unlink()


def _write_block(descriptor: int, start: int, num_bytes: int) -> None:
    words = np.arange(min(_STAMP_BYTES, num_bytes - start) // 8, dtype=np.int64)
    words *= 0x9E3779B97F4A7C1
    words[0] = start // _STAMP_BYTES
    left = words.data.cast("B")
    offset = start
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def _measured(path: Path, options: argparse.Namespace, torch: Any) -> dict[str, Any]:
    size = options.size
    store = GdsStore(str(path), num_threads=options.num_threads, task_bytes=options.task_size)
    buffer = torch.zeros(size, dtype=torch.uint8, device="cuda")
    # The store's settings are those of the process, so the bare file has the same.
    bare = import_module("kvikio").CuFile(str(path), "r")
    ways: dict[str, Callable[[], int]] = {
        "iopipe": lambda: store.submit_to_device([DeviceRead(str(path), 0, buffer)]).wait()[0],
        "kvikio": lambda: int(bare.pread(buffer, size, 0).get()),
    }
    try:
        for read in ways.values():  # threads and bounce buffers are made here
            buffer.zero_()
            torch.cuda.synchronize()
            _check(buffer, read(), torch)
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                begun = time.perf_counter()
                count = ways[name]()
                speeds[name].append(count / (time.perf_counter() - begun) / 1e9)
        _check(buffer, size, torch)
        ratios = [a / b for a, b in zip(speeds["iopipe"], speeds["kvikio"], strict=True)]
        return {
            "path": str(store.path),
            "num_threads": options.num_threads,
            "task_bytes": options.task_size,
            "num_bytes": size,
            "filesystem": Target(name="", files=((str(path), size),)).filesystem,
            "resident_fraction": residency([path])["resident_fraction"],
            "gbps": _summary(speeds["iopipe"]),
            "kvikio_gbps": _summary(speeds["kvikio"]),
            "ratio": _summary(ratios),
        }
    finally:
        bare.close()
        store.close()


def _check(buffer: Any, count: int, torch: Any) -> None:
    torch.cuda.synchronize()
    stamps = buffer.view(torch.int64)[:: _STAMP_BYTES // 8].cpu().numpy()
    if count != len(buffer) or not np.array_equal(stamps, np.arange(len(stamps))):
        raise DataError(f"{count} of {len(buffer)} bytes came, or in another order than asked for")


def _copy_peak(torch: Any) -> dict[str, Any]:
    """What a copy from pinned memory reaches here: the roof for all of this."""
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    speeds = []
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        device.copy_(host, non_blocking=True)
        torch.cuda.synchronize()
        speeds.append(len(host) / (time.perf_counter() - begun) / 1e9)
    row = {"name": "copy from pinned memory", "gbps": _summary(speeds[1:])}
    print(json.dumps(row), flush=True)
    return row


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "min": float(min(values)),
        "max": float(max(values)),
    }


if __name__ == "__main__":
    sys.exit(main())

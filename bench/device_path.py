"""Bytes to the GPU: tokens widened there, and columns of Arrow files, against the usual loops.

`python -m iopipe.bench.device_path --json FILE` on a machine with one GPU, a minute at most.  All
data is in memory, contestants take turns, and every row has the median and the spread
of its rounds.  `h2d_gbps` is the rate of single copies to the GPU while they run, as the profiler
recorded them after the timed rounds, beside the rate of one long copy out of pinned memory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import iopipe
from iopipe.bench.harness import residency, write_results

_ROWS, _LENGTH = 64, 8192
_ROUNDS = 4
_SECONDS = 0.8
_WORKERS = (0, 4, 8, 15)
_NUM_PROFILED = 40
_MIN_COPY_BYTES = 256 << 10
_ARROW_ROWS = 1 << 17
"""Of a record batch and of a batch: 132 MiB."""
_FEATURES = 256


def _events() -> tuple[Any, Any]:
    event: Any = torch.cuda.Event
    return event(enable_timing=True), event(enable_timing=True)


def pinned_peak() -> float:
    """GB/s of a copy of 256 MiB out of pinned memory, the median of 20."""
    size = 256 << 20
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(size, dtype=torch.uint8, device="cuda")
    rates = []
    for _ in range(22):
        start, end = _events()
        start.record()
        device.copy_(host, non_blocking=True)
        end.record()
        end.synchronize()
        rates.append(float(size / start.elapsed_time(end) / 1e6))
    return median(rates[2:])


# ---- tokens --------------------------------------------------------------------------


class _Windows(torch.utils.data.Dataset[Any]):
    """What training scripts have: a memmap, and two arrays of int64 a sample."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._tokens: Any = None
        self._num = os.path.getsize(path) // 2 // (_LENGTH + 1)

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._tokens is None:
            self._tokens = np.memmap(self._path, np.uint16, "r")
        begin = index * (_LENGTH + 1)
        window = torch.from_numpy(self._tokens[begin : begin + _LENGTH + 1].astype(np.int64))
        return window[:-1], window[1:]


def memmap_loop(path: str, num_workers: int) -> Iterator[Any]:
    """`num_workers` 0: nanoGPT's loop, which has no loader; else torch's DataLoader."""
    dataset = _Windows(path)
    if not num_workers:
        tokens = np.memmap(path, np.uint16, "r")
        generator = np.random.default_rng(0)
        while True:
            starts = generator.integers(0, len(tokens) - _LENGTH - 1, _ROWS).tolist()
            rows = [torch.from_numpy(tokens[s : s + _LENGTH].astype(np.int64)) for s in starts]
            after = [
                torch.from_numpy(tokens[s + 1 : s + 1 + _LENGTH].astype(np.int64)) for s in starts
            ]
            yield tuple(
                torch.stack(part).pin_memory().to("cuda", non_blocking=True)
                for part in (rows, after)
            )
    loader = torch.utils.data.DataLoader(
        dataset,
        _ROWS,
        shuffle=True,
        num_workers=num_workers,
        pin_memory=True,
        prefetch_factor=4,
        persistent_workers=True,
    )
    while True:
        for batch in loader:
            yield tuple(part.to("cuda", non_blocking=True) for part in batch)


def our_tokens(path: str, *, resident: bool = False) -> Iterator[Any]:
    pipeline = iopipe.read(path, window=_LENGTH + 1).shuffle(0).next_token(resident=resident)
    with pipeline.batch(_ROWS, drop_last=True).to("cuda").run(num_epochs=None) as run:
        for batch in run:
            yield batch["inputs"], batch["labels"]


def batches_per_second(batches: Iterator[Any], seconds: float, num_warm: int) -> float:
    """After a warm-up, which also takes what was made before; the device has done its part
    when the clock stops."""
    for _ in range(num_warm):
        next(batches)
    torch.cuda.synchronize()
    start, num = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(8):
            next(batches)
            num += 1
    torch.cuda.synchronize()
    return num / (time.perf_counter() - start)


def check_tokens(path: str) -> None:
    """Ours are the file's tokens, widened and shifted."""
    tokens = np.memmap(path, np.uint16, "r")
    pipeline = iopipe.read(path, window=_LENGTH + 1).shuffle(0).next_token().batch(_ROWS)
    with pipeline.to("cuda").run() as run:
        for batch in itertools.islice(run, 3):
            for row, key in enumerate(batch["__key__"]):
                begin = int(key) * (_LENGTH + 1)
                window = torch.from_numpy(tokens[begin : begin + _LENGTH + 1].astype(np.int64))
                assert torch.equal(batch["inputs"][row].cpu(), window[:-1])
                assert torch.equal(batch["labels"][row].cpu(), window[1:])


def token_rows(folder: Path) -> list[dict[str, Any]]:
    path = str(folder / "tokens.bin")
    generator = np.random.default_rng(0)
    piece = generator.integers(0, 50_000, 1 << 24, np.uint16)
    with open(path, "wb") as file:
        for _ in range(32):  # 1 GiB
            file.write(piece.tobytes())
    check_tokens(path)
    cores = len(os.sched_getaffinity(0))
    sweep = {}
    for num_workers in sorted({min(number, max(cores - 1, 1)) for number in _WORKERS}):
        batches: Any = memmap_loop(path, num_workers)
        with contextlib.closing(batches):
            sweep[num_workers] = batches_per_second(batches, _SECONDS, 40)
    best = max(sweep, key=lambda number: sweep[number])
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        # First, so that its workers are forked before our threads run.
        f"memmap, {best} workers": lambda: memmap_loop(path, best),
        "iopipe, streamed": lambda: our_tokens(path),
        "iopipe, resident pool": lambda: our_tokens(path, resident=True),
    }
    rates, h2d, failures = _turns(ways, _ROWS * _LENGTH, num_warm=60)
    rows: list[dict[str, Any]] = []
    baseline = median(rates[f"memmap, {best} workers"])
    for name in ways:
        if not rates[name]:
            rows.append({"name": f"tokens: {name}", "failed": failures[name]})
            continue
        row: dict[str, Any] = {"name": f"tokens: {name}"}
        row["tokens_per_second"] = _summary(rates[name])
        if h2d[name]:
            row["h2d_gbps"] = _summary(h2d[name])
        row["over_memmap"] = median(rates[name]) / baseline
        rows.append(row)
    rows[0]["sweep_tokens_per_second"] = {str(n): r * _ROWS * _LENGTH for n, r in sweep.items()}
    return rows


def _turns(
    ways: dict[str, Callable[[], Iterator[Any]]], per_batch: float, *, num_warm: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, str]]:
    """Rates of each way, round by round, GB/s of its copies, and why a way has none."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    h2d: dict[str, list[float]] = {name: [] for name in ways}
    failures: dict[str, str] = {}
    running: dict[str, Any] = {name: way() for name, way in ways.items()}
    for _ in range(_ROUNDS):
        for name in [name for name in ways if name not in failures]:
            try:
                rate = batches_per_second(running[name], _SECONDS, num_warm)
            except Exception as error:
                traceback.print_exc()
                failures[name] = f"{type(error).__name__}: {error}"
                rates[name] = []
                continue
            rates[name].append(rate * per_batch)
            print(f"{time.perf_counter():.1f} s: {name} {rate:.1f} batches/s", flush=True)
    for name in [name for name in ways if name not in failures]:
        h2d[name] = copy_rates(running[name])
    for batches in running.values():
        batches.close()
    return rates, h2d, failures


def copy_rates(batches: Iterator[Any]) -> list[float]:
    """GB/s of each larger copy from the host to the device while some batches are taken."""
    next(batches)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in itertools.islice(batches, _NUM_PROFILED):
                pass
            torch.cuda.synchronize()
        profile.export_chrome_trace(str(trace))
        return rates_in_trace(json.loads(trace.read_text()))


def rates_in_trace(trace: Mapping[str, Any]) -> list[float]:
    """Bytes a nanosecond of the copies in a trace of torch.profiler, whose times are in
    microseconds; small ones, which are all latency and carry little, are left out."""
    copies = [
        (event["args"]["bytes"], event["dur"] * 1e3)
        for event in trace["traceEvents"]
        if event.get("cat") == "gpu_memcpy" and "HtoD" in event["name"] and event["dur"] > 0
    ]
    return [size / nanoseconds for size, nanoseconds in copies if size >= _MIN_COPY_BYTES]


# ---- arrow ---------------------------------------------------------------------------


def write_table(path: str) -> int:
    """2 GiB of features, labels and weights; bytes of its columns."""
    generator = np.random.default_rng(1)
    values = generator.standard_normal(_ARROW_ROWS * _FEATURES, np.float32)
    features = pa.FixedSizeListArray.from_arrays(pa.array(values), _FEATURES)
    labels = pa.array(generator.integers(0, 1000, _ARROW_ROWS))
    weights = pa.array(generator.standard_normal(_ARROW_ROWS, np.float32))
    batch = pa.record_batch({"features": features, "label": labels, "weight": weights})
    with pa.ipc.new_file(path, batch.schema) as writer:
        for _ in range(16):
            writer.write_batch(batch)
    return _ARROW_ROWS * (_FEATURES * 4 + 8 + 4)


def pyarrow_loop(path: str) -> Iterator[Any]:
    while True:
        with pa.memory_map(path) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                columns = {}
                for name in batch.schema.names:
                    column: Any = batch.column(name)
                    flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
                    host = torch.from_numpy(flat.to_numpy(zero_copy_only=True))
                    columns[name] = host.pin_memory().to("cuda", non_blocking=True)
                yield columns


def our_columns(path: str, route: Any) -> Iterator[Any]:
    pipeline = iopipe.read(path).batch(_ARROW_ROWS).to("cuda", path=route)
    with pipeline.run(num_epochs=None) as run:
        yield from run


def check_columns(path: str, route: Any) -> None:
    with pa.memory_map(path) as file:
        batch: Any = pa.ipc.open_file(file).get_batch(0)
    (found,) = itertools.islice(our_columns(path, route), 1)
    features = torch.from_numpy(batch.column("features").flatten().to_numpy().copy())
    assert torch.equal(found["features"].cpu().view(-1), features)
    labels = torch.from_numpy(batch.column("label").to_numpy().copy())
    assert torch.equal(found["label"].cpu(), labels)


def arrow_rows(folder: Path, peak: float) -> list[dict[str, Any]]:
    path = str(folder / "table.arrow")
    num_bytes = write_table(path)
    ways: dict[str, Callable[[], Iterator[Any]]] = {}
    skipped: list[dict[str, Any]] = []
    for route in ("slots", "direct"):
        try:
            check_columns(path, route)
            ways[f"iopipe, {route}"] = lambda route=route: our_columns(path, route)  # type: ignore[misc]
        except (iopipe.IopipeError, OSError, RuntimeError) as error:
            skipped.append({"name": f"arrow: iopipe, {route}", "not_run": str(error)})
    ways["pyarrow, pin_memory, to"] = lambda: pyarrow_loop(path)
    rates, h2d, failures = _turns(ways, num_bytes / 1e9, num_warm=12)
    skipped += [{"name": f"arrow: {name}", "failed": said} for name, said in failures.items()]
    baseline = median(rates["pyarrow, pin_memory, to"])
    rows = [
        {
            "name": f"arrow: {name}",
            "gbps": _summary(rates[name]),
            "of_pinned_peak": median(rates[name]) / peak,
            "over_pyarrow": median(rates[name]) / baseline,
            **({"h2d_gbps": _summary(h2d[name])} if h2d[name] else {}),
        }
        for name in ways
        if rates[name]
    ]
    described = ""
    with contextlib.suppress(iopipe.IopipeError):
        pipeline = iopipe.read(path).batch(_ARROW_ROWS).to("cuda", path="auto")
        described = pipeline.describe().splitlines()[-1]
    return [*rows, *skipped, {"name": "arrow: auto", "describe": described}]


# ---- all -----------------------------------------------------------------------------


def _summary(found: list[float]) -> dict[str, float]:
    return {"median": median(found), "min": min(found), "max": max(found)}


def _part(name: str, measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A part that fails says so in the results, beside the others."""
    try:
        return measure()
    except Exception as error:
        traceback.print_exc()
        return [{"name": name, "failed": f"{type(error).__name__}: {error}"}]


def main() -> None:
    options = _options()
    torch.cuda.init()  # type: ignore[no-untyped-call]
    # The mapped file's arrays are read-only, and nobody writes to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        peak = pinned_peak()
        rows: list[dict[str, Any]] = [{"name": "pinned peak", "gbps": peak}]
        rows += _part("tokens", lambda: token_rows(folder))
        rows += _part("arrow", lambda: arrow_rows(folder, peak))
        rows.append({"name": "pinned peak, at the end", "gbps": pinned_peak()})
        for row in rows:
            if "h2d_gbps" in row:
                row["h2d_of_pinned_peak"] = row["h2d_gbps"]["median"] / peak
        kind = "tmpfs" if options.folder == Path("/dev/shm") else "page cache"
        cache = {"state": kind, **residency(sorted(folder.iterdir()))}
    write_results(
        options.json,
        command="python -m iopipe.bench.device_path --json FILE",
        cache=cache,
        rows=rows,
    )
    for row in rows:
        print(row)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=_roomy_folder())
    return parser.parse_args()


def _roomy_folder() -> Path:
    """/dev/shm where 4 GiB are free there, which containers mostly do not grant; else the
    folder for temporary files, out of whose page cache the data comes then."""
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free > 4 << 30:
        return shared
    return Path(tempfile.gettempdir())


if __name__ == "__main__":
    main()

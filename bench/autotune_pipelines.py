"""The pipelines that tuning is tried on: each is slow for another reason.

Stands under `bench.autotune`.  Invariant: the training step is a wait that takes no core, as an
accelerator's is for the host; far storage is a wait of known length before each read; decoding,
hashing and token gathering are real work on the cores.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import iopipe
from iopipe.bench.what_if_pipelines import SlowStore
from iopipe.pipeline import Pipeline

_NUM_SAMPLES = 512
_MANY = (1, 2, 4, 8, 16, 32)
_FEW = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A pipeline, its step, and all that a sweep tries."""

    build: Callable[[Path], Pipeline]
    step_ms: float
    grid: Mapping[str, Sequence[int]]
    """Knob -> values; knobs that are left out stay at the worst start or the default."""
    worst: Mapping[str, int] = field(default_factory=dict)


def worst_start(case: Case) -> dict[str, int]:
    """One thread each and one batch ahead."""
    threads = {name: 1 for name in case.grid if name.endswith(".threads")}
    return {"read.threads": 1, **threads, "prefetch": 1}


# ---- what is read --------------------------------------------------------------------


@cache
def photographs(pixels: int) -> bytes:
    """A shard of JPEGs with soft shapes and some grain, as photographs have."""
    target = io.BytesIO()
    draws = np.random.default_rng(0)
    with tarfile.open(fileobj=target, mode="w") as archive:
        jpegs = [_photograph(pixels, draws) for _ in range(8)]
        for number in range(_NUM_SAMPLES):
            _add(archive, f"{number:06d}.jpg", jpegs[number % len(jpegs)])
    return target.getvalue()


def _photograph(pixels: int, draws: np.random.Generator) -> bytes:
    coarse = Image.fromarray(draws.integers(0, 255, (12, 12, 3), np.uint8))
    soft = np.asarray(coarse.resize((pixels, pixels), Image.Resampling.BICUBIC), np.int16)
    grain = draws.normal(0, 6, soft.shape)
    target = io.BytesIO()
    picture = Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))
    picture.save(target, "JPEG", quality=90)
    return target.getvalue()


@cache
def blobs(num_bytes: int) -> bytes:
    """A shard of incompressible samples."""
    target = io.BytesIO()
    data = np.random.default_rng(1).bytes(num_bytes)
    with tarfile.open(fileobj=target, mode="w") as archive:
        for number in range(_NUM_SAMPLES):
            _add(archive, f"{number:06d}.bin", data)
    return target.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _from_memory(shard: bytes, *, wait_ms: float = 0.0) -> Pipeline:
    inner = iopipe.MemoryStore()
    inner.write("memory://data.tar", shard)
    store: Any = SlowStore(inner, 0.0)
    pipeline = iopipe.read("memory://data.tar", store=store).shuffle(0)
    store._wait = wait_ms / 1e3
    return pipeline


# ---- what is done to it --------------------------------------------------------------


def digest(row: dict[str, Any]) -> dict[str, Any]:
    """Some milliseconds on a core, without the interpreter lock."""
    key = hashlib.pbkdf2_hmac("sha256", bytes(row["bin"][:64]), b"salt", 3000)
    return {"digest": np.frombuffer(key, np.uint8)}


def looked_up(row: dict[str, Any]) -> dict[str, Any]:
    """Asks somebody else for something."""
    time.sleep(0.006)
    return {"value": np.frombuffer(bytes(row["bin"][:8]), np.uint8)}


def looked_up_in_bursts(row: dict[str, Any]) -> dict[str, Any]:
    """... who mostly knows it, and sometimes does not."""
    key = int.from_bytes(bytes(row["__key__"].encode()), "big")
    if random.Random(key).random() < 0.03:
        time.sleep(0.040)
    return {"value": np.frombuffer(bytes(row["bin"][:8]), np.uint8)}


def _tokens(folder: Path) -> Pipeline:
    path = folder / "tokens.bin"
    if not path.exists():
        np.random.default_rng(2).integers(0, 50_000, 8 << 20, np.uint16).tofile(path)
    source = iopipe.open_source(str(path), options=iopipe.OpenOptions(window=1025))
    return iopipe.read(source).shuffle(0).batch(64)


CASES: dict[str, Case] = {
    "photographs": Case(
        build=lambda _: _from_memory(photographs(320)).decode(size=128, concurrency=1).batch(16),
        step_ms=4,
        grid={"read.threads": (1, 2), "decode.threads": _FEW, "prefetch": (1, 2, 4)},
    ),
    "far storage": Case(
        build=lambda _: _from_memory(blobs(2048), wait_ms=25).batch(32),
        step_ms=10,
        grid={"read.threads": _MANY, "prefetch": (1, 4), "chunk_samples": (4, 8, 16, 32)},
    ),
    "far storage, photographs": Case(
        build=lambda _: (
            _from_memory(photographs(160), wait_ms=25).decode(size=96, concurrency=1).batch(16)
        ),
        step_ms=8,
        grid={
            "read.threads": _MANY, "decode.threads": (1, 2, 3), "prefetch": (1, 4),
            "chunk_samples": (2, 16),
        },
    ),
    "a map on the cores": Case(
        build=lambda _: _from_memory(blobs(2048)).map(digest, concurrency="auto").batch(16),
        step_ms=4,
        grid={"read.threads": (1, 2), "digest.threads": _FEW, "prefetch": (1, 2, 4)},
    ),
    "a map that waits": Case(
        build=lambda _: _from_memory(blobs(2048)).map(looked_up, concurrency="auto").batch(16),
        step_ms=8,
        grid={"read.threads": (1, 2), "looked_up.threads": _MANY, "prefetch": (1, 2, 4)},
    ),
    "a map that waits in bursts": Case(
        build=lambda _: (
            _from_memory(blobs(2048)).map(looked_up_in_bursts, concurrency="auto").batch(8)
        ),
        step_ms=12,
        grid={
            "read.threads": (1, 2), "looked_up_in_bursts.threads": (1, 2, 4, 8),
            "prefetch": (1, 2, 4, 8),
        },
    ),
    "all of it": Case(
        build=lambda _: (
            _from_memory(photographs(160), wait_ms=15)
            .decode(size=96, concurrency=1)
            .map(_waits, concurrency="auto", name="waits")
            .batch(16)
        ),
        step_ms=10,
        grid={
            "read.threads": (1, 2, 4, 8, 16), "decode.threads": (1, 2),
            "waits.threads": (1, 2, 4, 8, 16), "prefetch": (1, 4),
        },
    ),
    "a slow step": Case(
        build=lambda _: _from_memory(photographs(160)).decode(size=96, concurrency=1).batch(8),
        step_ms=40,
        grid={"read.threads": (1, 2), "decode.threads": _FEW, "prefetch": (1, 4)},
    ),
    "tokens": Case(
        build=_tokens,
        step_ms=3,
        grid={"read.threads": (1, 2, 4), "prefetch": (1, 2, 4), "chunk_samples": (8, 32, 64)},
    ),
}  # fmt: skip


def _waits(row: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.004)
    return {"jpg": row["jpg"]}

"""The pipelines that predictions are tried on: each as it is, and with one change made.

Stands under `bench.what_if`, in a process of its own for each run.  Invariant: the training
step is a wait that takes no core, as an accelerator's is for the host; storage is a wait as
well, since the page cache has no other; decode is Pillow's or this project's, on real pixels.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import iopipe
from iopipe.protocols import ReadRequest, Reads

_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One pipeline, before or after its change."""

    kind: str = "torch"
    storage_ms: float = 0.0
    """Of each sample, or of each read."""
    is_bursty: bool = False
    """Exponential times with that mean, and the same for decode, in place of constant ones."""
    pixels: int = 0
    """Width and height of the photograph that is decoded; 0: nothing is."""
    workers: int = 1
    prefetch: int = 2
    step_ms: float = 10.0
    num_batches: int = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A pipeline and the change that is tried on it, by its name in the report."""

    change: str
    before: Setting
    after: Setting


def _trial(change: str, before: Setting, **differences: Any) -> Trial:
    return Trial(change=change, before=before, after=replace(before, **differences))


TRIALS = {
    "waits, 1 to 2 workers": _trial(
        "2x decode threads", Setting(storage_ms=2, pixels=32), workers=2
    ),
    "waits, 2 to 4 workers": _trial(
        "2x decode threads", Setting(storage_ms=4, pixels=32, workers=2), workers=4
    ),
    "waits, storage twice as fast": _trial(
        "2x faster storage", Setting(storage_ms=4, pixels=32, workers=2), storage_ms=2.0
    ),
    "waits and decodes, cached": _trial(
        "cached", Setting(storage_ms=3, pixels=256, workers=2), storage_ms=0.0
    ),
    "no workers, storage twice as fast": _trial(
        "2x faster storage", Setting(storage_ms=2, pixels=64, workers=0), storage_ms=1.0
    ),
    "decodes, 1 to 2 workers": _trial(
        "2x decode threads", Setting(pixels=640, num_batches=96), workers=2
    ),
    "waits, cached": _trial("cached", Setting(storage_ms=2, pixels=32), storage_ms=0.0),
    "step-bound, storage twice as fast": _trial(
        "2x faster storage", Setting(storage_ms=1, pixels=32, workers=2), storage_ms=0.5
    ),
    "bursts, 2 workers, deeper queue": _trial(
        "prefetch 8", Setting(storage_ms=2.2, is_bursty=True, workers=2), prefetch=8
    ),
    "iopipe, decodes, 1 to 2 threads": _trial(
        "2x decode threads",
        Setting(kind="iopipe", pixels=640, num_batches=96, step_ms=5), workers=2,
    ),
    "bursts, deeper queue": _trial(
        "prefetch 8", Setting(storage_ms=1.1, is_bursty=True), prefetch=8
    ),
    "iopipe, storage twice as fast": _trial(
        "2x faster storage",
        Setting(kind="iopipe", storage_ms=60, pixels=64, num_batches=96), storage_ms=30.0,
    ),
    "iopipe, cached": _trial(
        "cached", Setting(kind="iopipe", storage_ms=40, pixels=64, num_batches=96), storage_ms=0.0
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--changed", action="store_true")
    parser.add_argument("--report", type=Path, help="where an iopipe run leaves its report")
    options = parser.parse_args(arguments)
    trial = TRIALS[options.trial]
    # What imports left is gone through now: it takes a tenth of a second, and comes once.
    gc.collect()
    setting = trial.after if options.changed else trial.before
    if setting.kind == "torch":
        _train_with_torch(setting)
    else:
        report = _train_with_iopipe(setting)
        options.report.write_text(json.dumps(report.to_json()))


# ---- torch ---------------------------------------------------------------------------


class Photographs(Dataset[torch.Tensor]):
    """One photograph of random pixels, waited for and decoded again and again."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._jpeg = photograph(setting.pixels) if setting.pixels else b""

    def __len__(self) -> int:
        return self._setting.num_batches * _BATCH

    def __getitem__(self, index: int) -> torch.Tensor:
        wait_ms = self._setting.storage_ms
        if self._setting.is_bursty:
            wait_ms = random.Random(index).expovariate(1 / wait_ms)
        if wait_ms:
            time.sleep(wait_ms / 1e3)
        if not self._jpeg:
            return torch.zeros(16)
        pixels = np.array(Image.open(io.BytesIO(self._jpeg)).convert("RGB"))
        return torch.from_numpy(pixels)


def photograph(pixels: int) -> bytes:
    """A JPEG with detail everywhere, which takes its decoder longest."""
    noise = np.random.default_rng(0).integers(0, 255, (pixels, pixels, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).save(target, "JPEG", quality=90)
    return target.getvalue()


def _train_with_torch(setting: Setting) -> None:
    loader = DataLoader(
        Photographs(setting),
        batch_size=_BATCH,
        num_workers=setting.workers,
        prefetch_factor=setting.prefetch if setting.workers else None,
    )
    for _ in loader:
        time.sleep(setting.step_ms / 1e3)


# ---- iopipe --------------------------------------------------------------------------


class SlowStore:
    """A store in memory that answers after a while."""

    def __init__(self, inner: iopipe.MemoryStore, wait_ms: float) -> None:
        self._inner = inner
        self._wait = wait_ms / 1e3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def view(self, path: str) -> None:
        """None: what is read is waited for."""

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        time.sleep(self._wait)
        return self._inner.read_into(path, offset, buffer)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        time.sleep(self._wait)
        return self._inner.submit(requests)


def _train_with_iopipe(setting: Setting) -> iopipe.Report:
    inner = iopipe.MemoryStore()
    _write_shard(inner, setting)
    store: Any = SlowStore(inner, 0.0)
    pipeline = iopipe.read("memory://photographs.tar", store=store).decode(
        concurrency=setting.workers
    )
    store._wait = setting.storage_ms / 1e3
    with pipeline.batch(_BATCH).run(num_epochs=setting.num_batches // 24) as run:
        for _ in run:
            time.sleep(setting.step_ms / 1e3)
        return run.report()


def _write_shard(store: iopipe.MemoryStore, setting: Setting) -> None:
    import tarfile

    jpeg = photograph(setting.pixels)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for number in range(24 * _BATCH):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(jpeg)
            archive.addfile(member, io.BytesIO(jpeg))
    store.write("memory://photographs.tar", target.getvalue())


Runner = Callable[[str, bool], dict[str, Any]]

if __name__ == "__main__":
    main()

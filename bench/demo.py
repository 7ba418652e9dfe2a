"""The main job: the same training twice, fed by a plain DataLoader and by iopipe.

Stands on everything else.  Invariant: both loaders deliver the same crops of the same
photographs to the same network for the same number of epochs; their epochs alternate, so
that whatever else the machine does falls on both.
"""

from __future__ import annotations

import math
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

import iopipe
from iopipe.bench.harness import environment, write_results
from iopipe.bench.model import Trainer
from iopipe.bench.photographs import CropSet, CropSettings, make_crops

MIN_ACCURACY = 0.9
_SCALE = (0.3, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """How large the job is."""

    crops: CropSettings = field(default_factory=CropSettings)
    size: int = 64
    batch_size: int = 64
    num_epochs: int = 4
    num_workers: int = field(default_factory=lambda: min(8, len(os.sched_getaffinity(0))))
    """Processes of the DataLoader, and as many decode threads of iopipe."""


@dataclass(slots=True)
class LoaderResult:
    """One loader's training."""

    name: str
    num_samples: int = 0
    seconds: float = 0.0
    """From the first request of each epoch to its end."""
    cpu_seconds: float = 0.0
    """Of this process and its workers: loading and training."""
    loss: float = math.nan
    accuracy: float = math.nan
    reports: list[iopipe.Report] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        return {
            "loader": self.name,
            "samples/s": f"{self.num_samples / self.seconds:,.0f}",
            "CPU s per 1000": f"{1000 * self.cpu_seconds / self.num_samples:.2f}",
            "starved": f"{100 * self.report.attributed_stall_fraction:.1f} %",
            "loss": f"{self.loss:.3f}",
            "accuracy": f"{100 * self.accuracy:.1f} %",
        }

    def measured(self) -> dict[str, object]:
        """The same, as numbers."""
        report = self.report
        return {
            "name": self.name,
            "samples_per_second": self.num_samples / self.seconds,
            "cpu_seconds_per_1000": 1000 * self.cpu_seconds / self.num_samples,
            "compute_stream": report.compute_stream,
            "attributed_stall_fraction": report.attributed_stall_fraction,
            "causes": dict(report.causes),
            "loss": self.loss,
            "accuracy": self.accuracy,
        }

    @property
    def report(self) -> iopipe.Report:
        """The reports of all epochs as one."""
        return _joined(self.reports)


class LooseCrops(Dataset[tuple[torch.Tensor, int]]):
    """What one writes by hand: files in class folders, Pillow, random-resized-crop, flip."""

    def __init__(self, folder: Path, size: int) -> None:
        self._files = sorted(folder.glob("*/*.jpg"))
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path = self._files[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        box = _random_box(*image.size)
        small = image.resize((self._size, self._size), Image.Resampling.BILINEAR, box=box)
        if random.random() < 0.5:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(small)), int(path.parent.name)


def _random_box(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(*_SCALE)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def run_demo(
    out: Path, *, device: str = "auto", settings: DemoSettings | None = None
) -> list[LoaderResult]:
    """Cut the crops, train twice, print the table, write `report.html`; the results."""
    settings = settings or DemoSettings()
    device = _device(device)
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with _progress(console) as progress:
        crops = _cut(out / "photographs", settings.crops, progress)
        results = _train_both(crops, settings, device, progress)
    verdict = _verdict(results)
    _print(console, results, verdict, _job(settings), out)
    iopipe.write_comparison(
        out / "report.html",
        title="iopipe demo: which photograph is it?",
        verdict=verdict,
        table=[result.row() for result in results],
        runs=[(result.name, result.report) for result in results],
        environment={**environment(), "device": device, "job": _job(settings)},
    )
    write_results(
        out / "results.json",
        command=f"iopipe demo --device {device}",
        cache={"state": "warm: the crops were just written"},
        rows=[result.measured() for result in results],
    )
    return results


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise iopipe.PipelineError("--device cuda needs CUDA, which torch does not see here")
    return wanted


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _cut(folder: Path, settings: CropSettings, progress: Progress) -> CropSet:
    total = settings.num_train + settings.num_held_out
    bar = progress.add_task("cutting crops of photographs", total=total)
    crops = make_crops(folder, settings, on_crop=lambda: progress.advance(bar))
    progress.update(bar, completed=total)
    return crops


def _train_both(
    crops: CropSet, settings: DemoSettings, device: str, progress: Progress
) -> list[LoaderResult]:
    torch_loader = _torch_epochs(crops, settings)
    iopipe_loader = _iopipe_epochs(crops, settings, device)
    contestants = [
        (LoaderResult("torch DataLoader, loose files"), torch_loader),
        (LoaderResult("iopipe, WebDataset shards"), iopipe_loader),
    ]
    _warm_up(len(crops.names), settings, device)
    trainers = [Trainer(len(crops.names), device=device) for _ in contestants]
    bars = [
        progress.add_task(f"training: {result.name}", total=settings.num_epochs * _steps(settings))
        for result, _ in contestants
    ]
    for epoch in range(settings.num_epochs):
        for (result, loader), trainer, bar in zip(contestants, trainers, bars, strict=True):
            _train(result, loader(epoch, result), trainer, partial(progress.advance, bar))
    for (result, _), trainer in zip(contestants, trainers, strict=True):
        result.loss = trainer.loss
        result.accuracy = trainer.accuracy(_held_out(crops, settings, device))
    return [result for result, _ in contestants]


def _warm_up(num_classes: int, settings: DemoSettings, device: str) -> None:
    """One step that nobody times: what torch sets up at its first falls on neither loader."""
    shape = (settings.batch_size, settings.size, settings.size, 3)
    labels = torch.zeros(settings.batch_size, dtype=torch.int64)
    Trainer(num_classes, device=device).step(torch.zeros(shape, dtype=torch.uint8), labels)
    if device != "cpu":
        torch.cuda.synchronize()


def _steps(settings: DemoSettings) -> int:
    return -(-settings.crops.num_train // settings.batch_size)


Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def _train(
    result: LoaderResult, batches: Batches, trainer: Trainer, on_step: Callable[[], None]
) -> None:
    """One epoch, timed from the request for its first batch to the end of its last step."""
    cpu_seconds, start = _cpu_seconds(), time.perf_counter()
    for pixels, labels in batches:
        trainer.step(pixels, labels)
        result.num_samples += len(labels)
        on_step()
    if trainer.device != "cpu":
        torch.cuda.synchronize()
    result.seconds += time.perf_counter() - start
    result.cpu_seconds += _cpu_seconds() - cpu_seconds


def _torch_epochs(crops: CropSet, settings: DemoSettings) -> Callable[[int, LoaderResult], Batches]:
    loader = DataLoader(
        LooseCrops(crops.loose, settings.size),
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=settings.num_workers,
    )

    def batches(epoch: int, result: LoaderResult) -> Batches:
        meter = iopipe.Meter()
        yield from meter.watch(loader)
        result.reports.append(meter.report())

    return batches


def _iopipe_epochs(
    crops: CropSet, settings: DemoSettings, device: str
) -> Callable[[int, LoaderResult], Batches]:
    options = iopipe.ImageOptions(
        size=(settings.size, settings.size), crop="random", flip=True, scale=_SCALE
    )
    pipeline = (
        iopipe.read(crops.train)
        .shuffle(0)
        .decode(options, concurrency=settings.num_workers)
        .batch(settings.batch_size)
        .to(device)
    )

    def batches(epoch: int, result: LoaderResult) -> Batches:
        with pipeline.run(epoch=epoch) as run:
            for batch in run:
                yield batch["jpg"], batch["cls"]
            result.reports.append(run.report())

    return batches


def _held_out(crops: CropSet, settings: DemoSettings, device: str) -> Iterator[dict[str, Any]]:
    pipeline = iopipe.read(crops.held_out).decode(size=settings.size).batch(200).to(device)
    with pipeline.run() as run:
        yield from run


def _cpu_seconds() -> float:
    """Of this process and of its workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _joined(reports: list[iopipe.Report]) -> iopipe.Report:
    """Epochs one after the other, without what ran between them."""
    wall_seconds = sum(report.wall_seconds for report in reports)
    causes = {name: 0.0 for report in reports for name in report.causes}
    steps = []
    offset_ns = 0
    for report in reports:
        for name, share in report.causes.items():
            causes[name] += share * report.wall_seconds / wall_seconds
        steps += [replace(step, start_ns=step.start_ns + offset_ns) for step in report.steps]
        offset_ns += round(report.wall_seconds * 1e9)
    return replace(
        reports[-1],
        num_steps=sum(report.num_steps for report in reports),
        num_samples=sum(report.num_samples for report in reports),
        wall_seconds=wall_seconds,
        attributed_stall_fraction=sum(causes.values()),
        causes=causes,
        steps=tuple(steps),
    )


def _verdict(results: list[LoaderResult]) -> str:
    before, after = results
    ratio = (after.num_samples / after.seconds) / (before.num_samples / before.seconds)
    shares = [100 * result.report.attributed_stall_fraction for result in results]
    return (
        f"Fed by iopipe the same training ran at {ratio:.2f} times the speed of the plain "
        f"DataLoader; it starved {shares[1]:.0f} % of the time instead of {shares[0]:.0f} %."
    )


def _job(settings: DemoSettings) -> str:
    return (
        f"{settings.num_epochs} epochs of {settings.crops.num_train} crops, batches of "
        f"{settings.batch_size}, {settings.size} x {settings.size} pixels, epochs in turns. "
        f"DataLoader: default settings, {settings.num_workers} workers, Pillow, loose files. "
        f"iopipe: {settings.num_workers} decode threads, libjpeg-turbo, WebDataset shards. Same "
        "network, first weights and random-resized-crop for both. Held-out crops are other cuts "
        "of the same photographs and overlap with those trained on."
    )


def _print(
    console: Console, results: list[LoaderResult], verdict: str, job: str, out: Path
) -> None:
    table = Table()
    for number, name in enumerate(results[0].row()):
        table.add_column(name, justify="right" if number else "left")
    for result in results:
        table.add_row(*(str(value) for value in result.row().values()))
    console.print(table)
    console.print(verdict)
    console.print(job, highlight=False)
    console.print(f"The step's clock is the {results[1].report.compute_stream}.", highlight=False)
    console.print(f"Pictures: {out / 'report.html'}", highlight=False)

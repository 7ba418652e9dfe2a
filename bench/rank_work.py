"""What each rank of `iopipe.bench.two_ranks` does: started by it, one process a rank.

Stands between the launcher and the windows.  Invariant: all ranks go through the same windows with
the same number of steps; rank 0 prints a row as soon as it is known, as `ROW` and JSON.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import iopipe
from iopipe.bench.feeds import FEEDS, Batch, Finish, Job, image_pipeline
from iopipe.bench.networks import Training
from iopipe.bench.ranks import Rank, contexts, join, leave, other_node, pages_of_slots
from iopipe.bench.windows import Length, Window, meter_of, run_window
from iopipe.meter.ranks import RankMeter, TorchExchange
from iopipe.topology import bound

_LATE_EVERY = 4
_IGNORED = -100
"""The label that torch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a rank is told, as JSON."""

    part: str
    """One of `PARTS`, or several with commas between them."""
    rank: int
    world: int
    places: int
    """Ranks that the machine is divided among, whether all of them run or not."""
    backend: str
    meeting: str
    dataset: str
    model: str
    batch_size: int
    size: int
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 6.0
    rounds: int = 3
    warmup: int = 12
    delay: float = 0.1
    folder: str = ""
    """Of ledgers and state."""
    save_every: int = 2
    ended: int | None = None
    """The rank that gets a signal after a share of its steps; None: all go on to the end."""
    ended_by: int = signal.SIGKILL
    share: float = 0.3


def emit(rank: Rank, row: dict[str, Any]) -> None:
    if rank.number == 0:
        print(f"ROW {json.dumps(row)}", flush=True)


def speed(rank: Rank, orders: Orders) -> None:
    """One GPU against two, a ready batch against ours, in turns."""
    places = rank.of_all(rank.place())
    cpus = [cpu for place in places for cpu in place["cpus"]]
    alone = Training(orders.model, device=rank.device)
    both = Training(orders.model, device=rank.device, with_ranks=True)
    job = _job(rank, orders)
    length = Length(warmup=orders.warmup, steps=_num_steps(rank, job, both, orders))
    turns = [(world, feed) for world in (1, 2) for feed in ("synthetic", "iopipe")]
    found: dict[tuple[int, str], list[list[dict[str, float] | None]]] = {t: [] for t in turns}
    for number in range(orders.rounds):
        for world, feed in turns if number % 2 == 0 else reversed(turns):
            rank.together()
            window: Window | None = None
            if world == rank.world:
                window = run_window(FEEDS[feed], job, both, length)
            elif rank.number == 0:
                window = run_window(FEEDS[feed], replace(job, rank=0, world=1), alone, length)
            found[world, feed].append(rank.of_all(window.numbers() if window else None))
        runs = {f"{world} {feed}": windows for (world, feed), windows in found.items()}
        disjoint = len(cpus) == len(set(cpus))
        emit(rank, {"part": "speed", "places": places, "cpus_are_disjoint": disjoint, "runs": runs})
    seen = rank.of_all(contexts())
    emit(rank, {"part": "speed", "contexts": seen})


def straggler(rank: Rank, orders: Orders) -> None:
    """Rank 1's loader is late at every fourth batch: without, with, without."""
    feed = FEEDS["iopipe" if rank.device != "cpu" else "synthetic"]
    training = Training(orders.model, device=rank.device, with_ranks=True)
    job = _job(rank, orders)
    length = Length(warmup=orders.warmup, steps=_num_steps(rank, job, training, orders))
    runs = []
    for is_late in (False, True, False):
        late = _Late(training, length.warmup + 1, orders.delay if is_late and rank.number else 0)
        meter = meter_of(job, ranks=RankMeter(TorchExchange(), interval=10))
        rank.together()
        window = run_window(feed, job, training, length, around=late, meter=meter)
        stalls = meter.rank_stalls()
        assert stalls is not None
        runs.append(
            {
                "injected_seconds": rank.of_all(late.seconds),
                "charged_seconds": stalls.charged_seconds,
                "stall_seconds": stalls.stall_seconds,
                "starved_fractions": rank.of_all(window.starved_fraction),
                "seconds": max(rank.of_all(window.seconds)),
                "steps": window.steps,
                "said": str(stalls),
            }
        )
    emit(rank, {"part": "straggler", "runs": runs})


class _Late:
    """Around a loader: where it is late the device has run dry, so that all of it is a cost."""

    def __init__(self, training: Training, first: int, delay: float) -> None:
        self._training = training
        self._first = first
        self._delay = delay
        self.seconds = 0.0

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches, -self._first):
            if self._delay and number >= 0 and number % _LATE_EVERY == _LATE_EVERY - 1:
                self._training.synchronize()
                start = time.perf_counter()
                time.sleep(self._delay)
                self.seconds += time.perf_counter() - start
            yield batch


def numa(rank: Rank, orders: Orders) -> None:
    """Everything on the GPU's node against everything on another one, in turns."""
    nodes = [node.index for node in rank.topology.nodes if node.cpus]
    others = rank.of_all(other_node(rank))
    if None in others:
        said = "one node: nothing to compare" if len(nodes) < 2 else rank.binding.reasons[0]
        emit(rank, {"part": "numa", "nodes": nodes, "said": said})
        return
    training = Training(orders.model, device=rank.device)
    job = replace(_job(rank, orders), rank=0, world=1)
    length = Length(warmup=orders.warmup, seconds=orders.seconds / 2)
    runs: list[dict[str, Any]] = []
    for _ in range(orders.rounds):
        for where in ("own", "other"):
            binding = others[rank.number] if where == "other" else rank.binding
            for what in ("feed alone", "training"):
                rank.together()
                step: Any = training if what == "training" else _Nothing(training)
                pages: dict[int, int] = {}
                with bound(binding):
                    window = run_window(FEEDS["iopipe"], job, step, length, around=_look(pages))
                seen = {"pages_of_slots": pages, **window.numbers()}
                runs.append({"where": where, "what": what, "ranks": rank.of_all(seen)})
        emit(rank, {"part": "numa", "nodes": nodes, "runs": runs})


class _Nothing:
    """In place of a training: what comes is let go."""

    loss = 0.0

    def __init__(self, training: Training) -> None:
        self.synchronize = training.synchronize

    def step(self, pixels: torch.Tensor, labels: torch.Tensor) -> None: ...


def _look(pages: dict[int, int]) -> Callable[[Iterator[Batch]], Iterator[Batch]]:
    def looked(batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            if number == 8:  # all slots have been written to
                pages.update(pages_of_slots())
            yield batch

    return looked


def epoch(rank: Rank, orders: Orders) -> None:
    """The rest of an epoch from the saved state on, with a ledger; perhaps not to its end."""
    training = Training(orders.model, device=rank.device, with_ranks=rank.world > 1)
    job = _job(rank, orders)
    finish = Finish(rank.device, job.size)
    folder = Path(orders.folder)
    pipeline = image_pipeline(job, tail="pad", drop_last=False)
    num_steps = 0
    with pipeline.run(ledger=folder / "ledgers") as run:
        if (folder / "state").exists():
            saved = torch.load(folder / "state", weights_only=True)
            training.load_state_dict(saved["model"])
            run.load_state_dict(json.loads(saved["run"]))
        last = max(1, int(orders.share * len(run)))
        for num_steps, batch in enumerate(run, 1):
            labels = batch["cls"].masked_fill(~batch["__valid__"], _IGNORED)
            training.step(finish(batch["jpg"]), labels)
            if num_steps % orders.save_every == 0:
                _save(folder, rank, training, run)
            if orders.ended == rank.number and num_steps == last:
                os.kill(os.getpid(), orders.ended_by)
    training.synchronize()
    emit(rank, {"part": "epoch", "steps": rank.of_all(num_steps), "loss": training.loss})


def _save(folder: Path, rank: Rank, training: Training, run: iopipe.Run) -> None:
    """When the device has passed the step's all-reduce, every rank has been given its batch of
    this step: only then is it true of all of them that they were."""
    training.synchronize()
    if rank.number == 0:
        state = {"model": training.state_dict(), "run": json.dumps(run.state_dict())}
        torch.save(state, folder / "state.tmp")
        os.replace(folder / "state.tmp", folder / "state")


def _job(rank: Rank, orders: Orders) -> Job:
    return Job(
        dataset=Path(orders.dataset),
        device=rank.device,
        batch_size=orders.batch_size,
        size=orders.size,
        rank=rank.number,
        world=rank.world,
        settings=orders.settings,
    )


def _num_steps(rank: Rank, job: Job, training: Training, orders: Orders) -> int:
    """As many as a window of `seconds` has with input that costs nothing; alike on all ranks."""
    length = Length(warmup=orders.warmup, steps=2 * _LATE_EVERY)
    window = run_window(FEEDS["synthetic"], job, training, length)
    wanted = math.ceil(orders.seconds * window.images_per_second / job.batch_size)
    of_all: list[int] = rank.of_all(wanted)
    return max(2 * _LATE_EVERY, *of_all)


PARTS: dict[str, Callable[[Rank, Orders], None]] = {
    "speed": speed,
    "straggler": straggler,
    "numa": numa,
    "epoch": epoch,
}


def main(arguments: list[str]) -> None:
    """One rank; `arguments` are its orders."""
    orders = Orders(**json.loads(arguments[0]))
    rank = join(
        orders.rank,
        orders.world,
        backend=orders.backend,
        meeting=Path(orders.meeting),
        places=orders.places,
    )
    for part in orders.part.split(","):
        PARTS[part](rank, orders)
        rank.together()
        emit(rank, {"part": part, "is_complete": True})
    leave()


if __name__ == "__main__":
    main(sys.argv[1:])

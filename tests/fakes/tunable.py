"""A pipeline whose rate follows from its values: stages in a row, cores that they share."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from iopipe.autotune.measurement import Measurement
from iopipe.autotune.setting import Knob


@dataclass
class Stage:
    """`seconds` of one thread for a batch, a part of it on a core."""

    seconds: float
    on_core: float = 1.0
    contention: float = 0.0
    """How much longer it takes for each thread beyond the first."""


@dataclass
class Machine:
    """Everything in seconds a batch; the loop consumes one in `step`."""

    stages: dict[str, Stage]
    step: float = 0.010
    cores: float = 2.0
    burst: float = 0.0
    """Lost where only one batch is kept ready; halves with each doubling."""
    latency: float = 0.0
    """Of each read, so that larger ones cost less a batch."""
    noise: float = 0.0
    seed: int = 0
    draws: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)

    def knobs(self) -> list[Knob]:
        knobs = [Knob(name=name, kind="threads") for name in self.stages]
        knobs.append(Knob(name="prefetch", kind="depth", most=16))
        return [*knobs, Knob(name="chunk", kind="read_size", most=32)] if self.latency else knobs

    def worst(self) -> dict[str, int]:
        return {knob.name: 1 for knob in self.knobs()}

    def seconds(self, values: Mapping[str, int]) -> float:
        return max(self.step, self.loader_seconds(values))

    def loader_seconds(self, values: Mapping[str, int]) -> float:
        slowest = max(self._stage(name, values) for name in self.stages)
        on_cores = sum(one.seconds * one.on_core for one in self.stages.values()) / self.cores
        return max(slowest, on_cores) + self.burst / values["prefetch"]

    def best(self) -> float:
        """Seconds a batch at the best of all values within the cores."""
        counts = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
        found = []
        for number in counts:
            values = {name: number for name in self.stages} | {"prefetch": 16, "chunk": 32}
            per_stage = {
                name: min(
                    (
                        count
                        for count in counts
                        if count * stage.on_core <= self.cores or count == 1
                    ),
                    key=lambda count, name=name: self._stage(name, {**values, name: count}),
                )
                for name, stage in self.stages.items()
            }
            found.append(self.seconds({**values, **per_stage}))
        return min(found)

    def measure(self, values: Mapping[str, int], num_steps: int = 8) -> Measurement:
        loader = self.loader_seconds(values)
        seconds = max(self.step, loader) * (1 + self.noise * self.draws.uniform(-1, 1))
        starved = max(0.0, 1 - self.step / max(self.step, loader))
        return Measurement(
            num_steps=num_steps,
            rate=1 / seconds,
            error=self.noise / 3,
            starved=starved,
            causes={"storage" if self.latency else "decode": starved} if starved else {},
            busy={name: min(1.0, self._stage(name, values) / seconds) for name in self.stages},
            on_core={name: one.on_core for name, one in self.stages.items()},
            cores=min(
                self.cores,
                sum(one.seconds * one.on_core for one in self.stages.values()) / seconds,
            ),
        )

    def _stage(self, name: str, values: Mapping[str, int]) -> float:
        stage, threads = self.stages[name], values[name]
        waits = self.latency / values.get("chunk", 1) if self.latency else 0.0
        return (stage.seconds + waits) * (1 + stage.contention * (threads - 1)) / threads

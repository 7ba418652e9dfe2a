"""Functions for `map`, where a worker process can import them."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import numpy as np


def side(sample: dict[str, Any]) -> dict[str, Any]:
    return {"shape": np.array(sample["jpg"].shape), "txt": sample["txt"]}


def scaled(sample: dict[str, Any]) -> dict[str, Any]:
    return {"pixels": sample["jpg"].astype(np.float32) / 255, "cls": sample["cls"]}


def noisy(sample: dict[str, Any], draws: np.random.Generator) -> dict[str, Any]:
    return {"noise": draws.random(5), "cls": sample["cls"]}


def even_only(sample: dict[str, Any]) -> dict[str, Any] | None:
    return sample if int(sample["cls"]) % 2 == 0 else None


def doubled(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "cls": batch["cls"] * 2}


def ragged(sample: dict[str, Any]) -> dict[str, Any]:
    return {"rows": np.arange(int(sample["cls"]) % 7 + 1)}


def where(sample: dict[str, Any]) -> dict[str, Any]:
    """The CPUs that this process may run on, as a row of bits."""
    return {"cpus": np.array([cpu in os.sched_getaffinity(0) for cpu in range(1024)])}


def broken(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": 1 // (int(sample["cls"]) - 11)}


def loses_its_connection(sample: dict[str, Any]) -> dict[str, Any]:
    raise ConnectionResetError("by the user's own server")


def reads_too_far(sample: dict[str, Any]) -> dict[str, Any]:
    raise EOFError("in the user's own file")


def unsendable_value(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": lambda: sample}


class Unsendable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("no way")


def unsendable(sample: dict[str, Any]) -> dict[str, Any]:
    raise Unsendable(1, 2)


def kills_itself(sample: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return sample


def exits(sample: dict[str, Any]) -> dict[str, Any]:
    os._exit(3)


def hangs(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(3600)
    return sample


def draws(sample: dict[str, Any]) -> dict[str, Any]:
    return {"process": os.getpid(), "drawn": random.random()}

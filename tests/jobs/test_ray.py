"""The Ray engine on a real cluster of two workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iopipe.jobs import ShardOptions, TransformSpec, shard

Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")  # Ray's own, which are none of ours
def test_a_killed_worker_of_ray_costs_nothing(
    ray: Any, texts: Path, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "def work(sample):\n"
        f"    open(os.path.join({str(pids)!r}, str(os.getpid())), 'w').close()\n"
        "    time.sleep(0.05)\n"
        "    return sample\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *_path()]))
    mapped = TransformSpec(name="map", options={"function": "slow:work"})
    options = ShardOptions(transforms=(mapped,), shard_samples=4, shuffle_seed=3)

    def kill_one() -> None:
        end = time.monotonic() + 120
        while len(list(pids.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(int(sorted(pids.iterdir())[0].name), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    report = shard(texts, tmp_path / "ray", options, engine="ray", num_workers=2)
    killer.join()
    assert report.num_samples == 40
    assert len(list(pids.iterdir())) >= 3  # the two workers, and the one in place of the killed
    shard(texts, tmp_path / "local", options, num_workers=2)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def _path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]

"""Two ranks on the CPU, over gloo: kept apart, exact after a kill, the late one named."""

from __future__ import annotations

import json
import os
import signal
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import iopipe
from iopipe.bench import launch, two_ranks
from iopipe.bench.ranks import other_node, pages_of_slots
from iopipe.bench.training_tables import two_ranks_table
from iopipe.topology import Node

NUM_SAMPLES = 60


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def run(images: Path, folder: Path, parts: str) -> dict[str, dict[str, Any]]:
    options = (
        f"--images {images} --json {folder / 'out.json'} --folder {folder} --parts {parts} "
        f"--backend gloo --model tiny --batch 4 --size 16 --workers 1 --samples {NUM_SAMPLES} "
        "--shards 3 --seconds 0.02 --rounds 1 --warmup 1 --delay 0.05"
    )
    rows = two_ranks.main(options.split())
    assert json.loads((folder / "out.json").read_text())["rows"] == json.loads(json.dumps(rows))
    return {row["part"]: row for row in rows}


def test_what_ends_by_itself_in_the_last_moment_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_END_SECONDS", 0)
    monkeypatch.setattr(launch, "_marked", lambda token: [2**30])  # no kernel has as many
    assert launch._end_all("token") == 1


@pytest.mark.timeout(400)
def test_nothing_is_lost_after_a_kill_and_an_interrupt(images: Path, tmp_path: Path) -> None:
    row = run(images, tmp_path, "killed")["killed"]
    assert row["audit_is_exact"] and row["audit_exit_code"] == 0
    assert row["delivered"] == [NUM_SAMPLES] and row["missing"] == row["double"] == 0
    assert row["num_ledgers"] == 2 + 1 + 2
    assert row["num_undone"] > 0
    first, second, third = row["starts"]
    assert first["codes"][1] == -signal.SIGKILL and first["codes"][0] != 0
    assert second["codes"] == (-signal.SIGINT,)
    assert third["codes"] == (0, 0)
    assert not any(start["num_left_behind"] for start in row["starts"])
    assert row["last_steps"][0] == row["last_steps"][1] > 0


@pytest.mark.timeout(400)
def test_two_ranks_are_measured(images: Path, tmp_path: Path) -> None:
    rows = run(images, tmp_path, "speed,straggler,numa")
    speed, late = rows["speed"], rows["straggler"]
    assert all(row["is_complete"] for row in rows.values())
    assert speed["cpus_are_disjoint"] == (len(os.sched_getaffinity(0)) > 1)
    assert [place["rank"] for place in speed["places"]] == [0, 1]
    runs = speed["runs"]
    assert [one is None for one in runs["1 iopipe"][0]] == [False, True]
    both = sum(one["images_per_second"] for one in runs["2 iopipe"][0])
    alone = runs["1 iopipe"][0][0]["images_per_second"]
    assert speed["scaling"]["median"] == pytest.approx(both / alone)
    steps = {one["steps"] for windows in runs.values() for one in windows[0] if one}
    assert len(steps) == 1
    before, with_delay, after = late["runs"]
    assert before["injected_seconds"] == after["injected_seconds"] == [0, 0]
    assert with_delay["injected_seconds"][0] == 0
    assert late["injected_seconds"] >= 0.05 * (with_delay["steps"] // 4)
    assert with_delay["stall_seconds"][1] >= late["injected_seconds"]
    assert rows["numa"].get("runs") or rows["numa"]["said"]
    table = two_ranks_table(json.loads((tmp_path / "out.json").read_text()))
    assert f"| times one | {both / alone:.2f} (" in table
    assert f"| charged to rank 1, to rank 0 | {late['charged_seconds'][1]:.3f} s, " in table


def test_a_part_that_fails_says_so_and_the_others_go_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def launch(ranks: Any, *, on_row: Any) -> Any:
        asked.append(ranks[0].part)
        if ranks[0].part == "speed,straggler,numa":
            on_row({"part": "speed", "is_complete": True})
            return SimpleNamespace(codes=(1, 1))
        on_row({"part": "numa", "said": "one node", "is_complete": True})
        return SimpleNamespace(codes=(0, 0))

    monkeypatch.setattr(two_ranks, "launch", launch)
    with pytest.raises(SystemExit, match="1"):
        run(images, tmp_path, "speed,straggler,numa")
    assert asked == ["speed,straggler,numa", "numa"]
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["part"] for row in rows] == ["speed", "straggler", "numa"]
    assert rows[1]["error"] == "exit codes [1, 1]: see above"


def test_the_figures_of_a_straggler() -> None:
    def one(injected: float, charged: list[float], seconds: float) -> dict[str, Any]:
        return {
            "injected_seconds": [0.0, injected],
            "charged_seconds": charged,
            "stall_seconds": charged,
            "seconds": seconds,
            "said": "",
        }

    runs = [one(0, [0.0, 0.0], 5.0), one(2.0, [0.02, 2.01], 7.2), one(0, [0.0, 0.0], 5.2)]
    row = two_ranks.summed_up({"part": "straggler", "runs": runs})
    assert row["relative_error"] == pytest.approx(0.005)
    assert row["lost_seconds"] == pytest.approx(2.1)
    assert row["share_seen_by_rank_0"] == pytest.approx(0.01)


def test_the_table_of_nodes_and_of_failures() -> None:
    def run(where: str, rate: float) -> dict[str, Any]:
        return {"where": where, "what": "feed alone", "ranks": [{"images_per_second": rate}] * 2}

    runs = [run("own", 30.0), run("other", 20.0)]
    runs += [{**one, "what": "training"} for one in runs]
    rows = [{"part": "numa", "runs": runs}, {"part": "epoch", "error": "no luck"}]
    machine = {"date": "today", "cores": "2", "cpu": "CPU", "torch": "2"}
    table = two_ranks_table({"rows": rows, "environment": machine, "command": "it"})
    assert "| training, the GPU's node against another | 1.50 (1.50 to 1.50) times |" in table
    assert "| it failed | no luck |" in table


def test_the_other_node_is_another_one_with_as_many_cpus() -> None:
    nodes = (
        Node(index=0, cpus=(0, 1, 2, 3), memory_bytes=1, distances={}),
        Node(index=1, cpus=(), memory_bytes=1, distances={}),
        Node(index=2, cpus=(4, 5, 6, 7), memory_bytes=1, distances={}),
    )
    limits = SimpleNamespace(cpus=(0, 1, 2, 3, 4, 5, 6), memory_nodes=(0, 2))
    topology = SimpleNamespace(nodes=nodes, limits=limits)

    def rank(number: int, node: int | None, cpus: tuple[int, ...]) -> Any:
        binding = SimpleNamespace(node=node, cpus=cpus)
        return SimpleNamespace(number=number, world=2, topology=topology, binding=binding)

    away = other_node(rank(1, 0, (2,)))
    assert away is not None
    assert (away.node, away.memory_node, away.cpus) == (2, 2, (5,))
    back = other_node(rank(0, 2, (4, 5, 6)))
    assert back is not None
    assert (back.node, back.cpus) == (0, (0, 1, 2))
    assert other_node(rank(0, None, (0,))) is None


def test_slots_are_found_where_the_kernel_has_them(images: Path, tmp_path: Path) -> None:
    assert pages_of_slots() == {}
    with iopipe.DatasetWriter(tmp_path / "set") as writer:
        for path in sorted(images.iterdir()):
            writer.write({"__key__": path.stem, "jpg": path.read_bytes()})
    pipeline = iopipe.read(tmp_path / "set").decode(size=64).batch(5).workers(1)
    with pipeline.run(num_epochs=None) as running:
        held = list(islice(running, 3))
        assert all(batch["jpg"].sum() for batch in held)  # only what was touched here is counted
        if Path("/proc/self/numa_maps").exists():
            assert sum(pages_of_slots().values()) >= len(held) * 5 * 64 * 64 * 3 // 4096

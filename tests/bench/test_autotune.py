"""The tuning benchmark: its pipelines give batches, its rows compare what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.rig import VirtualRig

from iopipe import Setting
from iopipe.bench import autotune
from iopipe.bench.autotune_pipelines import CASES, Case, worst_start
from iopipe.bench.injected import judged
from iopipe.bench.injected_cases import CASES as INJECTED
from iopipe.bench.injected_cases import run_case


@pytest.mark.parametrize("name", CASES)
def test_every_pipeline_takes_every_setting_of_its_sweep(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    pipeline = case.build(tmp_path)
    for values in autotune._grid(case, worst_start(case)):
        pipeline.tuned(Setting(values=values))
    with pipeline.tuned(Setting(values=worst_start(case))).run() as run:
        batch = next(run)
        assert len(batch["__key__"]) == pipeline.batch_size
        assert {stage.concurrency for stage in run.report().stages} == {1}


def test_a_row_says_what_was_tuned_and_what_the_sweep_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Case(build=CASES["tokens"].build, step_ms=0, grid={"prefetch": (1, 2)})
    monkeypatch.setattr(autotune, "CASES", {"small": small, "other": small})
    for name, value in {"_SWEEP_SECONDS": 0.0, "_FINAL_SECONDS": 0.0, "_NUM_STEPS": 20}.items():
        monkeypatch.setattr(autotune, name, value)
    target = tmp_path / "tuned.json"
    autotune.main(["--rounds", "1", "--only", "other", "--json", str(target)])
    autotune.main(["--rounds", "1", "--only", "small", "--json", str(target)])
    rows = json.loads(target.read_text())["rows"]
    assert [row["pipeline"] for row in rows] == ["small", "other"]
    row = rows[0]
    assert row["num_swept"] == 2
    best, tuned = (row[name]["samples_per_second"] for name in ("best_of_sweep", "tuned"))
    assert row["ratio"] == pytest.approx(tuned[0] / best[0])
    assert row["worst_start"]["values"] == {"read.threads": 1, "prefetch": 1}


def test_a_row_of_the_injected_truths_is_right_where_the_meter_is() -> None:
    for name, case in INJECTED.items():
        row = judged(name, case, run_case(case, VirtualRig()))
        assert row["is_right_cause"], name
        assert row["largest_error_us"] == 0
        assert row["share_of_gaps_within"] == 1

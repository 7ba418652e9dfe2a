"""`iopipe profile` on scripts that know nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from iopipe import cli
from iopipe.errors import PipelineError
from iopipe.meter.history import History
from iopipe.meter.report import Report
from iopipe.profile.command import profile

TRAIN = """
import sys, time
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

class Photographs(Dataset):
    def __len__(self): return 160
    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((3,), float(index)), index

class Stream(IterableDataset):
    def __iter__(self):
        return iter(Photographs()[index] for index in range(160))

if __name__ == "__main__":
    kind, workers, context = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dataset = Photographs() if kind == "map" else Stream()
    loader = DataLoader(
        dataset, batch_size=4, num_workers=workers, multiprocessing_context=context or None
    )
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    seen = []
    for images, labels in loader:
        optimizer.zero_grad()
        model(images).sum().backward()
        optimizer.step()
        seen += labels.tolist()
    print(seen == list(range(160)), type(images).__name__)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    return path


def _profiled(script: Path, *arguments: str, steps: int | None = None) -> dict[str, Any]:
    command = [sys.executable, str(script), *arguments]
    out = script.parent / "out"
    result = profile(command, out=out, steps=steps)
    assert result.exit_code == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    assert report["verdict"] in result.text
    steps = json.loads((out / "steps.json").read_text())
    assert sum(steps["counts"]) == report["num_steps"]
    assert 'id="steps"' in (out / "report.html").read_text()
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    assert sum(event["name"].startswith("step ") for event in events) == report["num_steps"]
    return report


@pytest.mark.parametrize(
    ("kind", "workers", "context"),
    [("map", 0, ""), ("map", 1, "fork"), ("map", 1, "spawn"), ("stream", 1, "fork")],
)
def test_a_loader_that_waits_is_storage_bound(
    script: Path, capfd: pytest.CaptureFixture[str], kind: str, workers: int, context: str
) -> None:
    report = _profiled(script, kind, str(workers), context)
    assert capfd.readouterr().out == "True Tensor\n"  # the script saw what it always sees
    assert report["schema"] == 1
    assert report["num_steps"] == 39
    assert report["num_samples"] == 160
    causes = report["causes"]
    asleep_seconds = 39 * 4 * 0.002  # nobody sleeps less than he was told to
    if workers == 0:
        assert causes["storage"] * report["wall_seconds"] >= 0.99 * asleep_seconds
    else:
        assert causes["storage"] > 0
    assert "loader" not in causes  # its inside was seen
    assert report["environment"]["workers"] == str(workers)
    stage = report["stages"][0]
    assert stage["name"] == "worker"
    assert stage["threads"] == max(1, workers)
    assert stage["busy_seconds"] >= asleep_seconds
    assert 0 < stage["busy"] <= 1


def test_predictions_need_enough_steps(script: Path) -> None:
    report = _profiled(script, "map", "0", "", steps=20)
    assert report["num_steps"] == 19
    assert report["what_if"] == []


def test_the_exit_code_is_the_scripts_and_its_error_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch
            from torch.utils.data import DataLoader, TensorDataset
            for number, _ in enumerate(DataLoader(TensorDataset(torch.arange(10)))):
                if number == 5:
                    raise SystemExit(7)
            """
        )
    )
    command = ["profile", "--out", str(tmp_path / "out"), "--", sys.executable, str(script)]
    assert cli.main(command) == 7
    output = capfd.readouterr().out
    assert "starved" in output
    assert str(tmp_path / "out" / "report.json") in output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_steps"] == 5


def test_other_libraries_iterators_are_left_alone(tmp_path: Path) -> None:
    script = tmp_path / "stateful.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch
            from torch.utils.data import DataLoader, TensorDataset
            from torchdata.stateful_dataloader import StatefulDataLoader
            data = TensorDataset(torch.arange(8))
            for workers in (0, 1):
                batches = list(StatefulDataLoader(data, batch_size=4, num_workers=workers))
                assert [type(batch) for batch in batches] == [list, list], batches
            assert len(list(DataLoader(data, batch_size=4))) == 2
            """
        )
    )
    result = profile([sys.executable, "-W", "ignore", str(script)], out=tmp_path / "out")
    assert result.exit_code == 0
    assert result.report["num_steps"] == 1


def test_a_hidden_sitecustomize_still_runs(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import os; os.environ['HIDDEN_SITE_RAN'] = '1'")
    script = tmp_path / "loop.py"
    script.write_text(
        "import os, torch\n"
        "assert os.environ['HIDDEN_SITE_RAN'] == '1'\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "for _ in DataLoader(TensorDataset(torch.arange(4))): pass\n"
    )
    paths = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable, "-m", "iopipe.cli", "profile", "--out", str(tmp_path / "out"), "--",
        sys.executable, str(script),
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=60)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_steps"] == 3


def test_ranks_are_compared(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, subprocess, sys, time
            if "RANK" not in os.environ:
                ranks = [
                    subprocess.Popen([sys.executable, __file__], env={**os.environ, "RANK": rank})
                    for rank in "01"
                ]
                sys.exit(max(rank.wait() for rank in ranks))
            import torch
            from torch.utils.data import DataLoader, Dataset
            class Slow(Dataset):
                def __len__(self): return 30
                def __getitem__(self, index):
                    time.sleep(0.02 if os.environ["RANK"] == "1" else 0)
                    return index
            for _ in DataLoader(Slow()): time.sleep(0.001)
            """
        )
    )
    result = profile([sys.executable, str(script)], out=tmp_path / "out")
    assert result.report["straggler"].startswith("rank 1 is the straggler")
    assert "rank 1 is the straggler" in result.text


LEAVES = """
import json, os, sys
for line in json.loads(sys.argv[1]):
    with open(os.path.join(os.environ["IOPIPE_PROFILE_FOLDER"], line["name"]), "w") as file:
        file.write(line["text"])
"""


def _left(*files: tuple[str, str]) -> list[str]:
    """A command of which processes leave these files."""
    lines = json.dumps([{"name": name, "text": text} for name, text in files])
    return [sys.executable, "-S", "-c", LEAVES, lines]


def _of_rank(rank: int, stalls_ns: list[int], *, num_steps: int, wall_seconds: float) -> str:
    report = Report(num_steps=num_steps, wall_seconds=wall_seconds).to_json()
    return json.dumps(
        {
            "rank": rank,
            "report": report,
            "steps": History().timeline().to_json(),
            "stalls_ns": stalls_ns,
            "text": f"rank {rank} in {wall_seconds} s",
        }
    )


def test_ranks_are_named_by_their_rank_whatever_their_process_is(tmp_path: Path) -> None:
    """Process 100 is not before process 99, nor is the first of this machine rank 0."""
    second = 10**9
    late = _of_rank(9, [0, second, second, second], num_steps=6, wall_seconds=8)
    quick = _of_rank(8, [0, 0, 0, 0, 7 * second], num_steps=5, wall_seconds=7)
    helper = _of_rank(8, [90 * second] * 5, num_steps=5, wall_seconds=0.5)
    command = _left(
        ("measured-100.json", late),
        ("measured-99.json", quick),
        ("measured-101.json", helper),
        ("measured-102.tmp", '{"rank": 0, "rep'),  # killed while it wrote
    )
    found = profile(command, out=tmp_path / "out")
    # Steps 2 to 4 are known of both: rank 9 forgot its first two, rank 8 made only five.
    assert found.report["straggler"] == (
        "rank 8 is the straggler: 7.00 s of the 8.00 s that starved ranks cost the job (88 %)"
    )
    assert found.text.startswith("rank 8 in 7")


def test_processes_of_the_same_rank_are_not_compared(tmp_path: Path) -> None:
    first = _of_rank(0, [5], num_steps=1, wall_seconds=1)
    longer = _of_rank(0, [9], num_steps=1, wall_seconds=2)
    found = profile(
        _left(("measured-1.json", longer), ("measured-2.json", first)), out=tmp_path / "out"
    )
    assert found.report["straggler"] == ""
    assert found.text == "rank 0 in 2 s"


@pytest.mark.parametrize(
    ("command", "steps", "message"),
    [
        ([], None, "no command was given"),
        (["true"], 1, "steps is 1"),
        (["true"], None, "nothing was measured: true ended with exit code 0"),
        (["/no/such/program"], None, "cannot be started: No such file"),
    ],
)
def test_what_cannot_be_measured_is_an_error(
    tmp_path: Path, command: list[str], steps: int | None, message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        profile(command, out=tmp_path / "out", steps=steps)

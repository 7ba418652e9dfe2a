"""Problems of a run are noted, counted and read back."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from fakes.scale_cast import KERNEL, scale_cast

from iopipe.errors import DataError, PipelineError
from iopipe.kernels.configs import Problem
from iopipe.kernels.shapes import Seen, collect_shapes, read_shapes
from iopipe.kernels.tuning import observe, resolve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _problem(values: int) -> Problem:
    return Problem(dtypes=("uint8", "float32"), shape={"values": values})


def test_what_ran_is_counted_in_all_threads(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "shapes.json"
    resolve(KERNEL, _problem(1))
    with collect_shapes(path):
        x = torch.ones(40, dtype=torch.uint8, device=DEVICE)
        scale_cast(x, scale=2.0, out=torch.empty(40, device=DEVICE))
        threads = [
            threading.Thread(target=lambda: [resolve(KERNEL, _problem(7)) for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    resolve(KERNEL, _problem(1))
    assert read_shapes(path) == [
        Seen(kernel="scale_cast", problem=_problem(7), num_launches=200),
        Seen(kernel="scale_cast", problem=_problem(40), num_launches=1),
    ]


def test_a_run_that_fails_leaves_what_it_saw(tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    with pytest.raises(ZeroDivisionError), collect_shapes(path):
        resolve(KERNEL, _problem(3))
        _ = 1 / 0
    assert [seen.problem for seen in read_shapes(path)] == [_problem(3)]


def test_one_collection_at_a_time(tmp_path: Path) -> None:
    with (
        collect_shapes(tmp_path / "a"),
        pytest.raises(PipelineError, match="collected already"),
        collect_shapes(tmp_path / "b"),
    ):
        pass
    with collect_shapes(tmp_path / "b"):
        pass
    assert read_shapes(tmp_path / "b") == []


def _with_size(size: str) -> str:
    row = f'{{"kernel": "k", "dtypes": [], "num_launches": 1, "shape": {{"values": {size}}}}}'
    return f'{{"schema": 1, "problems": [{row}]}}'


def test_a_launch_that_the_end_of_collecting_overtakes_goes_on(tmp_path: Path) -> None:
    lines: list[int] = []

    def ends_it(frame: FrameType, event: str, value: object) -> Any:
        if frame.f_code is resolve.__code__ and event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == 2:
                observe(None)  # as another thread may, right after the first line
        return ends_it

    before = sys.gettrace()
    observe(lambda kernel, problem: None)
    sys.settrace(ends_it)
    try:
        config = resolve(KERNEL, _problem(1))
    finally:
        sys.settrace(before)
        observe(None)
    assert len(lines) > 2 and config == KERNEL.heuristic(_problem(1))


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"schema": 2}', '{"schema": 1, "problems": [{}]}'),
        *(_with_size("1e999"), _with_size("-1"), "[" * 100_000),
    ],
    ids=range(7),
)
def test_another_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.json is not a file of collect_shapes"):
        read_shapes(path)
    path.write_text(json.dumps({"schema": 1, "problems": []}))
    assert read_shapes(path) == []

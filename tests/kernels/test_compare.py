"""The kernel benchmark: rows say what ran, against what, and nothing wrong is timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
import torch
from fakes import scale_cast as subject

from iopipe import cli
from iopipe.bench.kernels.catalogue import all_cases, kernels_of, modules_of_cases
from iopipe.bench.kernels.compare import rows_of
from iopipe.bench.kernels.rig import Rig
from iopipe.bench.kernels.timing import Beside
from iopipe.errors import DataError, PipelineError
from iopipe.kernels.gpus import Gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class FakeTimer:
    """The n-th contestant takes n * 10 us, in the second of three rounds a little more."""

    def alone(
        self, runs: Mapping[str, Callable[[], object]], *, num_rounds: int
    ) -> dict[str, list[float]]:
        places = enumerate(runs, start=1)
        return {name: [10.0 * n, 10.0 * n + 3, 10.0 * n] for n, name in places}

    def beside(
        self, runs: Mapping[str, Callable[[], object]], *, num_rounds: int
    ) -> dict[str, Beside]:
        raise AssertionError("a benchmark times alone")


RIG = Rig(
    gpu=Gpu(name="NVIDIA Test", sm=90, num_multiprocessors=1, l2_bytes=1),
    timer=FakeTimer(),
    refuse=lambda configs, run: ({}, {}),
    copy_peak=3e9,
    floor_microseconds=2.0,
    shared_bytes=1,
)


def test_a_row_says_what_ran_against_what(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows_of([subject.case(3000, DEVICE)], RIG)
    assert row == {
        "kernel": "scale_cast",
        "shape": "3000 uint8 to float32",
        "dtype": ["uint8", "float32"],
        "config": {"blocks": {"BLOCK": 1024}, "num_warps": 4, "num_stages": 1},
        "microseconds": {"median": 10.0, "min": 10.0, "max": 13.0},
        "bytes": 15000,
        "fraction_of_copy_peak": pytest.approx(0.5),
        "baselines": {
            "torch": {"median": 20.0, "min": 20.0, "max": 23.0},
            "in place": {"median": 30.0, "min": 30.0, "max": 33.0},
        },
    }
    assert "10.0 us, 50 % of the copy peak; torch 20.0 (2.00 x)" in capsys.readouterr().out


def test_a_kernel_that_differs_from_its_twin_gets_no_row() -> None:
    case = subject.case(3000, DEVICE)
    wrong = dataclasses.replace(case, twin=lambda: case.twin() + 1)
    with pytest.raises(DataError, match="differs from the twin"):
        rows_of([wrong], RIG)


def test_cases_are_found_by_kernel() -> None:
    names = [case.kernel.name for case in all_cases([subject], DEVICE, kernel="scale_cast")]
    assert names == ["scale_cast"]
    with pytest.raises(PipelineError, match=r"no kernel 'x': give one of \['scale_cast'\]"):
        list(all_cases([subject], DEVICE, kernel="x"))


def test_every_kernel_of_the_house_has_cases_and_every_module_a_kernel() -> None:
    modules = modules_of_cases()
    assert all(kernels_of([module]) for module in modules)
    assert len({module.__name__ for module in modules}) == len(modules)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("arguments", [["tune", "kernels"], ["bench", "kernels", "--json", "x"]])
def test_without_a_gpu_the_commands_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err == (
        f"iopipe: iopipe {' '.join(arguments[:2])} needs a CUDA device: none is visible here\n"
    )

"""The search: right before fast, clearly better or not at all, and found again by launches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fakes import scale_cast as subject
from fakes.scale_cast import KERNEL
from triton.runtime.errors import OutOfResources

from iopipe.bench.kernels import tuning as command
from iopipe.bench.kernels.aot import Build, Compiled
from iopipe.bench.kernels.cases import Case
from iopipe.bench.kernels.resources import Limits, _misfit, _spilling, resident_warps
from iopipe.bench.kernels.rig import Rig
from iopipe.bench.kernels.timing import Beside
from iopipe.bench.kernels.tune import label, tune_case
from iopipe.errors import DataError, PipelineError
from iopipe.kernels import lookup, tuning
from iopipe.kernels.configs import Config, Problem
from iopipe.kernels.gpus import Gpu, triton_minor
from iopipe.kernels.shapes import Seen
from iopipe.kernels.store import read_table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = Gpu(name="NVIDIA Test", sm=90, num_multiprocessors=1, l2_bytes=1)
CASE = subject.case(3000, DEVICE)
FIRST = label(KERNEL.heuristic(CASE.problem))


class FakeTimer:
    """Times by configuration; everything that is asked for is noted."""

    def __init__(self, alone: Mapping[str, float], beside: Mapping[str, float] | None = None):
        self._alone, self._beside = alone, beside or {}
        self.asked: list[tuple[frozenset[str], int]] = []

    def alone(
        self, runs: Mapping[str, Callable[[], object]], *, num_rounds: int
    ) -> dict[str, list[float]]:
        self.asked.append((frozenset(runs), num_rounds))
        for run in runs.values():
            run()
        return {name: [self._alone.get(name, 50.0)] * num_rounds for name in runs}

    def beside(
        self, runs: Mapping[str, Callable[[], object]], *, num_rounds: int
    ) -> dict[str, Beside]:
        return {
            name: Beside(microseconds=self._beside.get(name, 99.0), rival_slowdown=1.5)
            for name in runs
        }


def _rig(timer: FakeTimer, **changes: Any) -> Rig:
    rig = Rig(
        gpu=GPU,
        timer=timer,
        refuse=lambda configs, run: ({}, {}),
        copy_peak=1e9,
        floor_microseconds=2.0,
        shared_bytes=200_000,
    )
    return dataclasses.replace(rig, **changes)


def _name(block: int, warps: int = 4) -> str:
    return label(Config(blocks={"BLOCK": block}, num_warps=warps))


def _spoiled(case: Case, spoil: Callable[[Config, torch.Tensor], object]) -> Case:
    """What `spoil` does to the outputs of a run."""

    def run(config: Config | None) -> torch.Tensor:
        out = case.run(config)
        spoil(config or KERNEL.heuristic(case.problem), out)
        return out

    return dataclasses.replace(case, run=run)


def test_the_fastest_wins_and_the_better_half_is_measured_longer() -> None:
    timer = FakeTimer({_name(4096): 20.0, _name(128): 30.0, FIRST: 40.0})
    found = tune_case(CASE, _rig(timer), seconds=60)
    assert found.chosen.config == Config(blocks={"BLOCK": 4096}, num_warps=4)
    assert (found.chosen.microseconds, found.heuristic.microseconds) == (20.0, 40.0)
    assert [(len(names), rounds) for names, rounds in timer.asked] == [(8, 5), (4, 10), (3, 31)]
    assert all(FIRST in names for names, _ in timer.asked)
    assert (found.num_candidates, found.refused) == (8, {})
    assert found.bound_microseconds == CASE.num_bytes / 1e3
    assert found.fraction_of_copy_peak == pytest.approx(CASE.num_bytes / 20e-6 / 1e9)


def test_the_heuristic_s_choice_is_judged_to_the_end_and_stays_unless_clearly_beaten() -> None:
    slow = {FIRST: 1000.0, _name(4096): 20.0}
    timer = FakeTimer(slow)
    assert tune_case(CASE, _rig(timer), seconds=60).heuristic.microseconds == 1000.0
    assert FIRST in timer.asked[-1][0]
    for others, winner in ((39.3, FIRST), (39.1, _name(4096))):
        timer = FakeTimer({FIRST: 40.0, _name(4096): others})
        chosen = tune_case(CASE, _rig(timer), seconds=60).chosen
        assert label(chosen.config) == winner


def test_equals_are_told_apart_beside_a_matrix_product() -> None:
    alone = {FIRST: 40.0, _name(4096): 20.0, _name(128): 20.3, _name(128, 8): 21.0}
    beside = {_name(4096): 80.0, _name(128): 60.0, _name(128, 8): 1.0}
    chosen = tune_case(CASE, _rig(FakeTimer(alone, beside)), seconds=60).chosen
    assert label(chosen.config) == _name(128)


def test_when_time_is_up_the_first_round_decides() -> None:
    timer = FakeTimer({_name(4096): 20.0})
    clock = itertools.count(0, 10).__next__
    found = tune_case(CASE, _rig(timer), seconds=5, clock=clock)
    assert [rounds for _, rounds in timer.asked] == [5, 31]
    assert label(found.chosen.config) == _name(4096)


def _wrong(config: Config, out: torch.Tensor) -> None:
    if config.blocks["BLOCK"] == 4096:
        out[-1] += 1


def _unwritten(config: Config, out: torch.Tensor) -> None:
    if config.blocks["BLOCK"] == 4096:
        out.view(torch.uint8)[-4:] = 0xA5  # as if the store had been masked away


def _another_bit(config: Config, out: torch.Tensor) -> None:
    if config.blocks["BLOCK"] == 4096:
        out[-1] = torch.nextafter(out[-1], torch.tensor(9.0, device=out.device))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_wrong, "differs from the twin"),
        (_unwritten, "differs from the twin"),
        (_another_bit, "other bits than the heuristic's configuration"),
    ],
)
def test_what_is_not_right_is_not_timed(
    spoil: Callable[[Config, torch.Tensor], object], reason: str
) -> None:
    timer = FakeTimer({_name(4096): 1.0, _name(4096, 8): 1.0})
    close = dataclasses.replace(CASE, agrees=lambda a, b: bool(torch.allclose(a, b, atol=1e-5)))
    found = tune_case(_spoiled(close, spoil), _rig(timer), seconds=60)
    assert found.refused == {_name(4096): reason, _name(4096, 8): reason}
    assert not any({_name(4096), _name(4096, 8)} & names for names, _ in timer.asked)


def test_outputs_that_a_run_does_not_touch_are_not_those_of_the_run_before() -> None:
    def run(config: Config | None) -> torch.Tensor:
        """Writes nothing for large blocks; the buffer is the same every time."""
        return out if config is not None and config.blocks["BLOCK"] > 9999 else CASE.run(config)

    out = CASE.run(None)
    found = tune_case(dataclasses.replace(CASE, run=run), _rig(FakeTimer({})), seconds=60)
    assert set(found.refused) == {_name(16384), _name(16384, 8)}


def _too_large(config: Config, out: torch.Tensor) -> None:
    if config.blocks["BLOCK"] == 4096:
        raise OutOfResources(300_000, 232_448, "shared memory")


def test_what_the_device_refuses_to_launch_is_told() -> None:
    found = tune_case(_spoiled(CASE, _too_large), _rig(FakeTimer({})), seconds=60)
    assert set(found.refused) == {_name(4096), _name(4096, 8)}
    assert all("shared memory, Required: 300000" in why for why in found.refused.values())


def test_a_heuristic_that_is_wrong_is_an_error() -> None:
    broken = _spoiled(CASE, lambda config, out: out.zero_())
    with pytest.raises(DataError, match=r"scale_cast, 3000 uint8 to float32: .* from the twin"):
        tune_case(broken, _rig(FakeTimer({})), seconds=60)


def test_what_the_compiler_rules_out_is_not_run_but_never_the_heuristic() -> None:
    ran: list[str] = []
    case = _spoiled(CASE, lambda config, out: ran.append(label(config)))
    refuse = {_name(4096): "12 spills", FIRST: "1 spills"}
    rig = _rig(FakeTimer({_name(4096): 1.0}), refuse=lambda configs, run: (refuse, {}))
    found = tune_case(case, rig, seconds=60)
    assert found.refused == {_name(4096): "12 spills"}
    assert _name(4096) not in ran
    assert FIRST in ran


# ---- judging machine code ------------------------------------------------------------

CODE = Compiled(
    sm=90, registers=64, spills=0, stack_bytes=0, shared_bytes=0, load_bits={}, store_bits={}
)
BUILD = Build(function="m:f", signature={}, constants={}, options={"num_warps": 8})


def test_what_does_not_fit_a_multiprocessor_is_told() -> None:
    limits = Limits(sm=90, shared_bytes=1000)
    assert _misfit(BUILD, CODE, limits) == ""
    heavy = dataclasses.replace(BUILD, options={"num_warps": 32})
    assert "81920 registers" in _misfit(heavy, dataclasses.replace(CODE, registers=80), limits)
    assert "1001 bytes" in _misfit(BUILD, dataclasses.replace(CODE, shared_bytes=1001), limits)


def test_spills_rule_out_unless_all_spill() -> None:
    spilling = dataclasses.replace(CODE, spills=7)
    assert _spilling({"a": [(BUILD, CODE)], "b": [(BUILD, spilling)]}) == {"b": "7 spills"}
    assert _spilling({"a": [(BUILD, spilling)], "b": [(BUILD, spilling)]}) == {}


def test_resident_warps_and_what_bounds() -> None:
    assert resident_warps(CODE, num_warps=8, shared_bytes=1) == 32
    light = dataclasses.replace(CODE, registers=16)
    assert resident_warps(light, num_warps=8, shared_bytes=1) == 64
    large = dataclasses.replace(light, shared_bytes=60_000)
    assert resident_warps(large, num_warps=4, shared_bytes=200_000) == 12
    rig = _rig(FakeTimer({}))
    config = Config(num_warps=4)
    assert rig.bound_by(90_000, 100.0, large, config) == "memory"
    assert rig.bound_by(100, 3.0, large, config) == "launch"
    assert rig.bound_by(10_000, 100.0, large, config).startswith("latency (16 registers, 60000")
    assert rig.bound_by(10_000, 100.0, light, config).startswith("instructions (")
    assert rig.bound_by(10_000, 100.0, None, config) == "instructions or latency"


# ---- the command ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this user's configurations go; the GPU is the test's."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    monkeypatch.setenv("IOPIPE_TUNE_DIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lookup, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(command, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(tuning, "current_gpu", lambda: GPU)
    tuning.forget()
    yield folder
    tuning.forget()


def test_what_was_found_is_launched_from_then_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuning.resolve(KERNEL, CASE.problem) == KERNEL.heuristic(CASE.problem)
    rig = _rig(FakeTimer({FIRST: 40.0, _name(4096): 20.0}))
    cases = [CASE, subject.case(4000, DEVICE), subject.case(5000, DEVICE)]
    (path,) = command.tune_into(folder, rig, cases, seconds=60)
    assert path == folder / "nvidia-test" / "scale_cast.json"
    for values, block in ((2100, 4096), (4096, 4096), (8000, 4096), (9000, 1024)):
        problem = Problem(dtypes=("uint8", "float32"), shape={"values": values})
        assert tuning.resolve(KERNEL, problem).blocks == {"BLOCK": block}
    table = read_table(path)
    assert table is not None
    assert [entry.measured["case"] for entry in table.entries] == [
        "3000 uint8 to float32",
        "5000 uint8 to float32",
    ]
    assert table.entries[0].measured["chosen"]["microseconds"] == 20.0
    assert "date" in table.entries[0].measured["environment"]
    printed = capsys.readouterr().out
    assert "4000 uint8 to float32: in one bucket with 3000 uint8" in printed
    assert "40.0 ->      20.0 us" in printed


def test_tuning_replaces_a_damaged_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "nvidia-test" / "scale_cast.json"
    path.parent.mkdir()
    path.write_text("{")
    command.tune_into(folder, _rig(FakeTimer({})), [CASE], seconds=60)
    assert "it is replaced" in capsys.readouterr().out
    assert tuning.resolve(KERNEL, CASE.problem) == KERNEL.heuristic(CASE.problem)
    assert command.check_kernels([subject]) == []


def _check(modules: list[ModuleType] | None = None) -> str:
    (line,) = command.check_kernels(modules or [subject])
    return line


def test_check_says_what_is_out_of_date(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.check_kernels([subject]) == []
    (path,) = command.tune_into(folder, _rig(FakeTimer({})), [CASE], seconds=60)
    content = path.read_text()
    assert command.check_kernels([subject], kernel="scale_cast") == []
    with pytest.raises(PipelineError, match="no kernel 'other'"):
        command.check_kernels([subject], kernel="other")

    path.write_text(content.replace(f'"{triton_minor()}"', '"3.1"', 1))
    assert f"{path}: for Triton 3.1; this is {triton_minor()}" == _check()
    path.write_text(content.replace('"num_warps": 4', '"num_warps": 3', 1))
    assert f"{path}: damaged: it has a configuration that" in _check()
    path.write_text(content[:-9])
    assert f"{path}: damaged: " in _check()
    path.write_text(content)
    with monkeypatch.context() as changed:
        changed.setattr(command, "fingerprint", lambda kernel: "f" * 16)
        assert f"{path}: for another version of the kernel scale_cast" == _check()
    path.rename(path.with_name("renamed.json"))
    assert "renamed.json: of the kernel scale_cast, which is not there" in _check()


def test_shipped_files_may_be_for_other_tritons(folder: Path) -> None:
    shipped = command.SHIPPED
    (path,) = command.tune_into(shipped, _rig(FakeTimer({})), [CASE], seconds=60)
    path.write_text(path.read_text().replace(f'"{triton_minor()}"', '"3.1"', 1))
    assert command.check_kernels([subject]) == []


def test_shapes_of_a_run_are_tuned_by_cases_made_for_them_or_like_them() -> None:
    def seen(kernel: str, values: int) -> Seen:
        problem = Problem(dtypes=("uint8", "float32"), shape={"values": values})
        return Seen(kernel=kernel, problem=problem, num_launches=1)

    missing: list[Seen] = []

    def names(module: Any, *wanted: Seen, kernel: str | None = None) -> list[str]:
        cases = command.cases_like(
            [module], DEVICE, seen=wanted, on_missing=missing.append, kernel=kernel
        )
        return [case.name for case in cases]

    module = ModuleType("fixed")
    vars(module).update(KERNEL=KERNEL, cases=lambda device: iter([CASE]))
    wanted = seen("scale_cast", 2500), seen("scale_cast", 9000), seen("gone", 3000)
    assert names(module, *wanted) == ["3000 uint8 to float32"]
    assert missing == [wanted[1], wanted[2]]
    missing.clear()
    assert names(subject, *wanted, kernel="scale_cast") == [
        "2500 uint8 to float32",
        "9000 uint8 to float32",
    ]
    assert missing == []

"""Tuning on a real device: what is recorded, refused, timed and found again."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path

import pytest
import torch
import triton
from fakes import scale_cast as subject
from fakes.scale_cast import KERNEL

from iopipe.bench.kernels.aot import compile_ahead, name_of
from iopipe.bench.kernels.compare import bench_kernels
from iopipe.bench.kernels.resources import Limits, recorded_builds, refused
from iopipe.bench.kernels.rig import measured_rig
from iopipe.bench.kernels.timing import CudaTimer
from iopipe.bench.kernels.tune import label
from iopipe.bench.kernels.tuning import TuneOptions, check_kernels, tune_kernels
from iopipe.kernels import tuning
from iopipe.kernels.configs import Config

pytestmark = pytest.mark.gpu


def test_a_recorded_launch_does_not_happen_and_compiles_ahead() -> None:
    case = subject.case(1 << 20, "cuda")
    config = Config(blocks={"BLOCK": 512}, num_warps=2)
    out = case.run(None)
    out.fill_(-1)
    with recorded_builds() as builds:
        case.run(config)
    assert bool((out == -1).all())
    (build,) = builds
    assert build.function == name_of(subject.scale_cast_kernel)
    assert build.constants == {"BLOCK": 512}
    assert build.options["num_warps"] == 2
    assert set(build.aligned) == {"x", "out", "num_values"}
    ((code,),) = compile_ahead(builds, sms=[Limits.of_device().sm])
    grid = (triton.cdiv(1 << 20, 512),)
    loaded = subject.scale_cast_kernel[grid](
        torch.zeros(1 << 20, dtype=torch.uint8, device="cuda"), out, 1.0, 1 << 20,
        BLOCK=512, num_warps=2, num_stages=1,
    )  # fmt: skip
    assert (code.registers, code.spills) == (loaded.n_regs, loaded.n_spills)
    assert code.shared_bytes == loaded.metadata.shared
    assert bool((out == 0).all())


def test_configurations_that_cannot_run_are_refused() -> None:
    case = subject.case(1 << 20, "cuda")
    configs = {
        label(config): config
        for config in (
            Config(blocks={"BLOCK": 1 << 15}, num_warps=1),  # 1,024 values a thread
            Config(blocks={"BLOCK": 1000}, num_warps=4),
            Config(blocks={"BLOCK": 2048}, num_warps=4),
        )
    }
    reasons, codes = refused(configs, case.run, limits=Limits.of_device())
    assert list(codes) == ["BLOCK=2048 warps=4 stages=1"]
    assert reasons["BLOCK=32768 warps=1 stages=1"]
    assert "power of 2" in reasons["BLOCK=1000 warps=4 stages=1"]


def test_the_host_is_kept_out() -> None:
    """A launch that the host needs a millisecond for takes no longer than another."""
    timer = CudaTimer()
    x = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)

    def slowly() -> None:
        end = time.perf_counter() + 1e-3
        while time.perf_counter() < end:
            pass
        y.copy_(x)

    times = timer.alone({"plain": lambda: y.copy_(x), "slowly": slowly}, num_rounds=21)
    plain, slow = (statistics.median(times[name]) for name in ("plain", "slowly"))
    assert slow == pytest.approx(plain, rel=0.3)


def test_tune_then_bench_then_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOPIPE_TUNE_DIR", str(tmp_path / "tuned"))
    (tmp_path / "tuned").mkdir()
    tuning.forget()
    try:
        (path,) = tune_kernels([subject], TuneOptions(seconds=20))
        assert path.parent.name == measured_rig("a test").gpu.folder
        assert check_kernels([subject], kernel=KERNEL.name) == []
        case = next(iter(subject.cases("cuda")))
        (first, *_) = json.loads(path.read_text())["entries"]
        chosen = tuning.resolve(KERNEL, case.problem)
        assert dict(chosen.blocks) == first["config"]["blocks"]
        rows = bench_kernels([subject], tmp_path / "rows.json")
        large = rows[0]
        assert large["config"] == first["config"]
        assert 0.5 < large["fraction_of_copy_peak"] < 1.1
        assert large["baselines"].keys() >= {"torch", "in place"}
    finally:
        tuning.forget()


def test_a_run_with_a_tuned_configuration_gives_the_heuristic_s_bits() -> None:
    case = subject.case((1 << 22) + 3, "cuda")
    expected = case.run(KERNEL.heuristic(case.problem)).clone()
    for config in KERNEL.candidates(case.problem):
        case.run(None).fill_(float("nan"))
        assert torch.equal(case.run(dataclasses.replace(config)), expected)

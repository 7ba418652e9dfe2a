"""Which way the bytes take to a GPU: judged on trees that look like /proc and /run, and by a
process that may hang, die or answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iopipe.storage import gds_probe
from iopipe.storage.gds_probe import GdsPath, count_reads, look_around, probe

STATS = """GDS Version: 1.0.0.71
NVFS statistics(ver: 4.0)
IO stats: {state}, peer IO stats: Enabled
Reads                           : n={reads} ok={reads} err=0 readMiB=0 io_state_err=0
Reads                           : Bandwidth(MiB/s)=0 Avg-Latency(usec)=0
Sparse Reads                    : n=6 io=0 holes=0 pages=0
Ops                             : Read={ops} Write=9
"""
MOUNTS = """22 1 259:1 / / rw shared:1 - {root} /dev/nvme0n1p1 rw
23 22 0:21 / /dev/shm rw,nosuid - tmpfs tmpfs rw
24 22 259:2 / /data rw,noatime shared:2 - xfs /dev/nvme1n1 rw
25 22 259:3 / /data\\040two rw - overlay overlay rw
"""
ANSWER = {"compat_mode": "OFF", "is_gds_available": True, "step": "done"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine where nothing stands against GPUDirect."""
    for name, text in {
        "proc/self/mountinfo": MOUNTS.format(root="ext4"),
        "proc/modules": "nvidia_fs 303104 0 - Live 0x0 (OE)\n",
        "proc/driver/nvidia-fs/version": "version: 2.30\n",
        "proc/driver/nvidia-fs/stats": STATS.format(state="Enabled", reads=10, ops=0),
        "proc/driver/nvidia/params": 'RegistryDwords: ""\n',
        "proc/driver/nvidia/gpus/0000:be:00.0/information": "Model: NVIDIA H200\n",
        "run/udev/control": "",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


class Kvikio:
    """Stands for the process; does `reads` reads through nvidia-fs."""

    def __init__(self, root: Path, answer: dict[str, Any], *, reads: int) -> None:
        self.root, self.answer, self.reads = root, answer, reads
        self.may_open: bool | None = None

    def __call__(self, path: str, *, may_open: bool, timeout_s: float) -> dict[str, Any]:
        self.may_open = may_open
        if self.reads:
            stats = STATS.format(state="Enabled", reads=10 + self.reads, ops=0)
            (self.root / "proc/driver/nvidia-fs/stats").write_text(stats)
        return self.answer


def judged(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    path: str = "/data/a",
    answer: dict[str, Any] = ANSWER,
    reads: int = 1,
) -> tuple[GdsPath, bool | None]:
    kvikio = Kvikio(root, answer, reads=reads)
    monkeypatch.setattr(gds_probe, "_ask_kvikio", kvikio)
    return probe(path, root=root), kvikio.may_open


def test_gpudirect_where_a_counter_moved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/data/a", "/home/b"):
        assert judged(root, monkeypatch, path=path) == (GdsPath("gpudirect"), True)
        (root / "proc/driver/nvidia-fs/stats").write_text(
            STATS.format(state="Enabled", reads=10, ops=0)
        )
    assert str(GdsPath("gpudirect")) == "gpudirect"


@pytest.mark.parametrize(
    ("answer", "reads", "reason"),
    [
        (ANSWER, 0, "no counter of nvidia-fs moved"),
        (ANSWER | {"compat_mode": "ON"}, 1, "kvikio's compat mode is ON"),
        (ANSWER | {"compat_mode": "AUTO"}, 1, "kvikio's compat mode is AUTO"),
        (ANSWER | {"is_gds_available": False}, 1, "cuFile is in its own compat mode"),
        ({"compat_mode": "OFF"}, 1, "cuFile is in its own compat mode"),
    ],
)
def test_what_kvikio_and_cufile_say(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], reads: int, reason: str
) -> None:
    found, _ = judged(root, monkeypatch, answer=answer, reads=reads)
    assert found.kind == "compat" and reason in found.reason
    assert str(found).startswith("compat (")


def remove(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        for inner in sorted(path.rglob("*"), reverse=True):
            inner.unlink() if inner.is_file() else inner.rmdir()
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("gone", "path", "reason"),
    [
        ("proc/modules", "/data/a", "there is no /proc/modules"),
        ("run/udev", "/data/a", "/run/udev cannot be read"),
        ("proc/driver/nvidia-fs", "/data/a", "neither the nvidia-fs module nor PCI P2PDMA"),
        ("", "/dev/shm/a", "no direct path for filesystem 'tmpfs'"),
        ("", "/data two/a", "no direct path for filesystem 'overlay'"),
    ],
)
def test_obstacles_are_seen_before_the_driver_is_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch, gone: str, path: str, reason: str
) -> None:
    if gone:
        remove(root, gone)
    found, may_open = judged(root, monkeypatch, path=path, reads=0)
    assert found.kind == "compat" and reason in found.reason and may_open is False


def test_p2pdma_is_tried_but_not_taken_for_proven(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(root, "proc/driver/nvidia-fs")
    (root / "proc/driver/nvidia/params").write_text('RegistryDwords: "RMForceStaticBar1=1;x=1"\n')
    found, may_open = judged(root, monkeypatch, reads=0)
    assert found.kind == "compat" and "no counter" in found.reason and may_open


def test_an_error_is_unavailable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for gone in ((), ("run/udev",)):
        remove(root, *gone)
        found, _ = judged(root, monkeypatch, answer={"error": "no GPU"}, reads=0)
        assert str(found) == "unavailable (no GPU)"


def test_surroundings(root: Path) -> None:
    found = look_around("/data/deep/a", root=root)
    assert (found.filesystem, found.num_gpus, found.nvidia_fs_reads) == ("xfs", 1, 10)
    bare = look_around("/data/a", root=root / "run")
    assert not (bare.has_modules or bare.has_udev or bare.has_nvidia_fs or bare.has_p2pdma)
    assert (bare.filesystem, bare.num_gpus, bare.nvidia_fs_reads) == ("", 0, 0)


def test_counters() -> None:
    assert count_reads(STATS.format(state="Enabled", reads=12, ops=3)) == 12
    assert count_reads(STATS.format(state="Disabled", reads=0, ops=5)) == 5
    assert count_reads("") == 0


# ---- the process ---------------------------------------------------------------------


def kvikio_that(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of this name in front of all others, for the process that is started."""
    (folder / "kvikio").mkdir()
    (folder / "kvikio/__init__.py").write_text(code)
    paths = [str(folder), str(Path(gds_probe.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))


def test_process_that_never_returns_is_ended(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvikio_that(tmp_path / "run", "while True: pass", monkeypatch)
    found = probe("/data/a", root=root, timeout_s=1)
    assert str(found) == "unavailable (importing kvikio did not return in 1 s)"


def test_process_that_dies_is_quoted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvikio_that(tmp_path / "run", "raise RuntimeError('no such library')", monkeypatch)
    found = probe("/data/a", root=root)
    assert str(found) == (
        "unavailable (importing kvikio ended with code 1: RuntimeError: no such library)"
    )


def test_missing_package_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvikio_that(tmp_path / "run", "raise ImportError('libcufile.so.0')", monkeypatch)
    found = probe("/data/a", root=root)
    assert found.kind == "unavailable"
    assert "libcufile.so.0; pip install 'iopipe[gds]'" in found.reason

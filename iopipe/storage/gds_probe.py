"""Whether bytes reach the GPU without passing through host memory, and if not, why.

Stands beside `storage.gds`, which asks before its first read.  Invariant: `gpudirect` is answered
only after a read that a counter of the kernel's saw; whatever else works is `compat`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["gpudirect", "compat", "unavailable"]

_FILESYSTEMS = frozenset({"ext4", "xfs", "nfs", "nfs4", "lustre", "wekafs", "gpfs", "beegfs"})
"""Of NVIDIA's support matrix (GPUDirect Storage release notes); others end in compat mode."""


@dataclass(frozen=True, slots=True)
class GdsPath:
    """The way of the bytes; `str()` is how it is named to users."""

    kind: Kind
    reason: str = ""
    """Why it is not 'gpudirect'."""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What /proc, /sys and /run say; nothing is opened but files."""

    filesystem: str
    """Of the path asked about, '' where no mount holds it."""
    has_modules: bool
    """/proc/modules is there; without it, opening cuFile's driver never returns."""
    has_udev: bool
    """/run/udev is readable; without it kvikio takes compat mode."""
    has_nvidia_fs: bool
    has_p2pdma: bool
    """The NVIDIA driver was loaded with the static BAR that PCI P2PDMA needs."""
    num_gpus: int
    nvidia_fs_reads: int
    """Reads that the nvidia-fs module has done since it was loaded."""


def look_around(path: str, *, root: Path = Path("/")) -> Surroundings:
    """`root` stands for / in tests."""
    driver = root / "proc/driver"
    return Surroundings(
        filesystem=_filesystem(path, _text(root / "proc/self/mountinfo")),
        has_modules=(root / "proc/modules").exists(),
        has_udev=os.access(root / "run/udev", os.R_OK),
        has_nvidia_fs=(driver / "nvidia-fs/version").exists(),
        has_p2pdma="RMForceStaticBar1=1" in _text(driver / "nvidia/params"),
        num_gpus=len(list((driver / "nvidia/gpus").glob("*"))),
        nvidia_fs_reads=count_reads(_text(driver / "nvidia-fs/stats")),
    )


def count_reads(stats: str) -> int:
    """The larger of the two counters of /proc/driver/nvidia-fs/stats: 'Reads : n=' counts only
    where statistics are enabled.  Source: NVIDIA, GPUDirect Storage troubleshooting guide."""
    found = re.findall(r"^\s*Reads\s*:\s*n=(\d+)|^\s*Ops\s*:\s*Read=(\d+)", stats, re.MULTILINE)
    return max((int(number) for pair in found for number in pair if number), default=0)


def probe(path: str, *, root: Path = Path("/"), timeout_s: float = 30.0) -> GdsPath:
    """The way that the bytes of the file `path` take to a GPU.

    kvikio is asked in a process of its own, which is ended after `timeout_s`: opening cuFile's
    driver may spin for ever.  Blocks for as long as that process takes, a second or two.
    """
    before = look_around(path, root=root)
    obstacle = _obstacle(before)
    answer = _ask_kvikio(path, may_open=not obstacle, timeout_s=timeout_s)
    if "error" in answer:
        return GdsPath("unavailable", str(answer["error"]))
    if obstacle:
        return GdsPath("compat", obstacle)
    return _judge(answer, look_around(path, root=root).nvidia_fs_reads - before.nvidia_fs_reads)


def _obstacle(found: Surroundings) -> str:
    """Why GPUDirect cannot be, '' where nothing stands against it; the first that is known."""
    obstacles = (
        (not found.has_modules, "there is no /proc/modules, without which cuFile never starts"),
        (not found.has_udev, "/run/udev cannot be read: mount it into the container"),
        (
            found.filesystem not in _FILESYSTEMS,
            f"cuFile has no direct path for filesystem {found.filesystem!r}",
        ),
        (
            not found.has_nvidia_fs and not found.has_p2pdma,
            "neither the nvidia-fs module nor PCI P2PDMA is set up",
        ),
    )
    return next((reason for is_there, reason in obstacles if is_there), "")


def _judge(answer: dict[str, Any], num_reads: int) -> GdsPath:
    """`num_reads`: how many reads nvidia-fs did while kvikio read the file."""
    if answer.get("compat_mode") != "OFF":
        return GdsPath("compat", f"kvikio's compat mode is {answer.get('compat_mode')}")
    if not answer.get("is_gds_available"):
        return GdsPath("compat", "cuFile is in its own compat mode (is_gds_available is false)")
    if num_reads < 1:
        return GdsPath("compat", "cuFile read the file, and no counter of nvidia-fs moved")
    return GdsPath("gpudirect")


def _ask_kvikio(path: str, *, may_open: bool, timeout_s: float) -> dict[str, Any]:
    """What `gds_child` says, its lines put together; 'error' where it came to no end."""
    command = [sys.executable, "-m", "iopipe.storage.gds_child", path, str(int(may_open))]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as expired:
        step = _together(expired.stdout or b"").get("step", "starting")
        return {"error": f"{step} did not return in {timeout_s:g} s"}
    answer = _together(done.stdout)
    if done.returncode != 0 and "error" not in answer:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        step = answer.get("step", "starting")
        return {"error": f"{step} ended with code {done.returncode}: {said[-1]}"}
    return answer


def _together(output: bytes) -> dict[str, Any]:
    """Lines that are no JSON are the libraries' own."""
    answer: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(b'{"'):
            answer.update(json.loads(line))
    return answer


def _filesystem(path: str, mounts: str) -> str:
    """Type of the mount that holds `path`, see proc_pid_mountinfo(5): the longest mount point
    that is a parent, of equal ones the later."""
    best, kind = -1, ""
    real = os.path.realpath(path)
    for line in mounts.splitlines():
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        if (real + "/").startswith(point.rstrip("/") + "/") and len(point) >= best:
            best, kind = len(point), rest.split()[0]
    return kind


def _text(path: Path) -> str:
    """'' where the file is not there or is not for this user: then it says nothing."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""

"""Where data lies: every verdict; disks and mounts made of files, direct reads for real."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from fakes.patient import Case, ask_all, assert_says, cases
from fakes.tree import ROOT_MOUNT, FakeMachine

from iopipe.doctor import storage

_QUEUE = "sys/block/nvme0n1/queue"
_PLACE = "sys/bus/pci/devices/0000:5e:00.0"


def _mount(kind: str, options: str = "rw,relatime", more: str = "rw") -> dict[str, str]:
    line = f"30 27 0:50 / /data {options} - {kind} source {more}"
    return {"proc/self/mountinfo": f"{ROOT_MOUNT}\n{line}"}


@cases(
    Case(
        check=storage.filesystem,
        verdict="unknown",
        says="no /proc",
        files={"proc/self/mountinfo": ""},
    ),
    *(
        Case(
            check=storage.filesystem,
            verdict=verdict,
            says=f"{kind} at /data",
            files=_mount(kind),
            path="/data/x",
        )
        for kind, verdict in (
            ("xfs", "ok"),
            ("nfs4", "ok"),
            ("overlay", "warn"),
            ("fuse.s3fs", "warn"),
            ("virtiofs", "warn"),
        )
    ),
    Case(
        check=storage.mount_options,
        verdict="unknown",
        says="no /proc",
        files={"proc/self/mountinfo": ""},
    ),
    *(
        Case(
            check=storage.mount_options,
            verdict=verdict,
            says=says,
            files=_mount("ext4", options, more),
            path="/data/x",
        )
        for options, more, verdict, says in (
            ("rw,relatime", "rw", "ok", "relatime"),
            ("rw,noatime", "rw", "ok", "noatime"),
            ("ro", "ro", "ok", "ro"),
            ("rw", "rw", "warn", "strictatime"),
            ("rw,noatime", "rw,data=journal", "warn", "data=journal"),
            ("rw,sync,noatime", "rw", "warn", "sync"),
        )
    ),
    Case(
        check=storage.nfs_connections,
        verdict="unknown",
        says="no /proc",
        files={"proc/self/mountinfo": ""},
    ),
    Case(check=storage.nfs_connections, verdict="ok", says="no NFS"),
    *(
        Case(
            check=storage.nfs_connections,
            verdict=verdict,
            says=says,
            files=_mount("nfs4", more=options),
            path="/data/x",
        )
        for options, verdict, says in (
            ("rw,nconnect=8,rsize=1048576", "ok", "nconnect=8"),
            ("rw,rsize=1048576", "warn", "nconnect=1"),
            ("rw,nconnect=8,rsize=65536", "warn", "rsize=65536"),
        )
    ),
)
def test_mounts(case: Case, tmp_path: Path) -> None:
    assert_says(case, tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """A disk on node 1 of two, mounted at /data."""
    machine = FakeMachine(tmp_path / "root")
    machine.two_nodes()
    place = machine.pci("0000:5e:00.0", node=1)
    machine.disk(f"{place}/nvme/nvme0", "nvme0n1", "259:0", partitions={"nvme0n1p1": "259:1"})
    line = "30 27 259:1 / /data rw,noatime - xfs /dev/nvme0n1p1 rw"
    machine.write({"proc/self/mountinfo": f"{ROOT_MOUNT}\n{line}"})
    return machine


def _link(width: str, speed: str) -> dict[str, str | bytes]:
    return {
        f"{_PLACE}/current_link_width": width,
        f"{_PLACE}/max_link_width": "4",
        f"{_PLACE}/current_link_speed": speed,
        f"{_PLACE}/max_link_speed": "16.0 GT/s PCIe",
    }


@pytest.mark.parametrize(
    ("check", "files", "verdict", "says"),
    [
        (storage.scheduler, {}, "unknown", "no scheduler shown"),
        (storage.scheduler, {f"{_QUEUE}/scheduler": "[none] mq-deadline\n"}, "ok", "none"),
        (storage.scheduler, {f"{_QUEUE}/scheduler": "none [bfq]\n"}, "warn", "nvme0n1: bfq"),
        (
            storage.scheduler,
            {f"{_QUEUE}/scheduler": "none [bfq]\n", f"{_QUEUE}/rotational": "1\n"},
            "ok",
            "bfq",
        ),
        (
            storage.scheduler,
            {f"{_QUEUE}/scheduler": "[none] bfq\n", f"{_QUEUE}/rotational": "1\n"},
            "warn",
            "none",
        ),
        (storage.read_ahead, {}, "unknown", "no disk"),
        (storage.read_ahead, {f"{_QUEUE}/read_ahead_kb": "128\n"}, "warn", "128 KiB"),
        (storage.read_ahead, {f"{_QUEUE}/read_ahead_kb": "4096\n"}, "ok", "4096 KiB"),
        (
            storage.read_ahead,
            {
                f"{_QUEUE}/read_ahead_kb": "4096\n",
                "sys/class/bdi/259:1/read_ahead_kb": "128\n",
            },
            "warn",
            "/dev/nvme0n1p1: 128 KiB",
        ),
        (storage.medium, {}, "unknown", "does not say"),
        (storage.medium, {f"{_QUEUE}/rotational": "0\n"}, "ok", "flash"),
        (storage.medium, {f"{_QUEUE}/rotational": "1\n"}, "warn", "spinning"),
        (storage.link, {}, "unknown", "no link shown"),
        (storage.link, _link("4", "16.0 GT/s PCIe"), "ok", "x4 of x4"),
        (storage.link, _link("2", "16.0 GT/s PCIe"), "warn", "x2 of x4"),
        (storage.link, _link("4", "8.0 GT/s PCIe"), "warn", "8.0 GT/s PCIe of 16.0"),
        (storage.link, _link("4", "Unknown"), "unknown", "no link shown"),
        (storage.node, {}, "ok", "nvme0n1 on node 1"),
        (storage.node, {f"{_PLACE}/numa_node": "-1\n"}, "unknown", "not known"),
    ],
)
def test_disks(
    machine: FakeMachine,
    check: object,
    files: dict[str, str | bytes],
    verdict: str,
    says: str,
) -> None:
    machine.write(files)
    (found,) = ask_all(machine, check, path="/data/x")  # type: ignore[arg-type]
    assert (found.verdict, says in found.observed) == (verdict, True), found
    assert "DISK" not in found.command or verdict in {"ok", "unknown"}


def test_a_disk_away_from_all_gpus_is_a_warning(machine: FakeMachine) -> None:
    machine.write({"sys/bus/pci/devices/0000:af:00.0/numa_node": "0\n"})
    (found,) = ask_all(machine, storage.node, path="/data/x")
    assert (found.verdict, found.observed) == ("warn", "nvme0n1 on node 1; GPUs on node 0")


def test_a_virtual_disk_that_says_it_spins_is_not_believed(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    place = machine.pci("0000:00:04.0", node=-1)
    machine.disk(place, "vda", "254:0", partitions={"vda1": "254:1"})
    machine.write({"sys/block/vda/queue/rotational": "1\n"})
    (found,) = ask_all(machine, storage.medium)
    assert found.verdict == "unknown"


def test_direct_reads_are_tried_for_real(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path / "root")
    folder = tmp_path / "data"
    folder.mkdir()
    (empty,) = ask_all(machine, storage.direct_io, path=str(folder))
    assert (empty.verdict, "no file" in empty.observed) == ("unknown", True)
    (folder / "0.tar").write_bytes(bytes(10_000))
    try:
        os.close(os.open(folder / "0.tar", os.O_RDONLY | os.O_DIRECT))
        expected = "ok"
    except OSError:
        expected = "warn"
    (found,) = ask_all(machine, storage.direct_io, path=str(folder))
    assert found.verdict == expected
    # Files of /proc know no O_DIRECT, whatever the filesystem of the tests does.
    (refused,) = ask_all(machine, storage.direct_io, path="/proc/self/status")
    assert (refused.verdict, "invalid argument" in refused.observed) == ("warn", True)


def test_many_small_files_are_a_warning(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path / "root")
    folder = tmp_path / "data"
    folder.mkdir()
    verdicts = []
    for count in (1000, 1001):
        for place in range(count):
            (folder / f"{place}.jpg").touch()
        (found,) = ask_all(machine, storage.small_files, path=str(folder))
        verdicts.append(found.verdict)
    assert verdicts == ["ok", "warn"]
    (single,) = ask_all(machine, storage.small_files, path=str(folder / "0.jpg"))
    (nothing,) = ask_all(machine, storage.small_files, path=str(tmp_path / "gone"))
    assert (single.verdict, nothing.verdict) == ("ok", "unknown")


def test_a_folder_that_is_not_for_this_user_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    machine = FakeMachine(tmp_path / "root")
    monkeypatch.setattr(os, "scandir", refused)
    (found,) = ask_all(machine, storage.small_files, path=str(tmp_path))
    assert (found.verdict, "permission denied" in found.observed) == ("unknown", True)


def test_a_name_of_the_data_does_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2Jevil").write_bytes(bytes(10_000))
    (found,) = ask_all(FakeMachine(tmp_path / "root"), storage.direct_io, path=str(tmp_path))
    assert "evil" in found.observed and "\x1b" not in found.observed

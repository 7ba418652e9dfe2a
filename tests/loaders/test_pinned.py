"""The memory of slots: huge pages, a node, a page-lock, and what is said where they fail."""

from __future__ import annotations

import gc
import logging
import re
from pathlib import Path

import pytest
import torch
from fakes.link import FakeLink

from iopipe.errors import PipelineError, StorageError
from iopipe.loaders import pinned
from iopipe.loaders.pinned import check_lockable, lock_failure
from iopipe.loaders.shared import private_slot, shared_slot
from iopipe.loaders.slots import Slot

SIZE = 4 << 20


def _flags(slot: Slot) -> set[str]:
    """The kernel's flags of the mapping that a slot lies in."""
    address = slot.buffer.data_ptr()
    found: set[str] = set()
    is_here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_here = int(match[1], 16) <= address < int(match[2], 16)
        elif is_here and line.startswith("VmFlags:"):
            found = set(line.split()[1:])
    return found


@pytest.mark.parametrize("is_shared", [False, True])
def test_slots_ask_for_huge_pages_and_are_page_locked_while_they_live(is_shared: bool) -> None:
    link = FakeLink()
    slot = (shared_slot if is_shared else private_slot)(SIZE, pinning=link)
    assert "hg" in _flags(slot)
    assert ("dc" in _flags(slot)) != is_shared  # not copied to forked children
    assert link.pinned == {slot.buffer.data_ptr(): SIZE}
    assert int(slot.buffer.sum()) == 0
    tensor = slot.buffer[:10].view(torch.int16)
    del slot
    gc.collect()
    assert link.pinned
    tensor.fill_(3)
    del tensor
    gc.collect()
    assert not link.pinned


def test_pages_are_placed_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(pinned, "place", lambda buffer, policy: steps.append(f"{policy.nodes}"))
    monkeypatch.setattr(
        pinned, "find_pages", lambda buffer: steps.append("verify") or _Placement({0: 3, 1: 1021})
    )
    link = FakeLink()
    monkeypatch.setattr(link, "pin", lambda address, size: steps.append("pin"))
    monkeypatch.setattr(link, "unpin", lambda address: None)
    private_slot(SIZE, pinning=link, node=1)
    assert steps == ["(1,)", "verify", "pin"]


class _Placement:
    def __init__(self, pages_of_node: dict[int, int]) -> None:
        self.pages_of_node = pages_of_node


def test_a_node_that_is_refused_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(buffer: memoryview, policy: object) -> None:
        raise StorageError("mbind failed with EPERM (test)")

    monkeypatch.setattr(pinned, "place", refuse)
    monkeypatch.setattr(pinned, "find_pages", lambda buffer: _Placement({0: 1024}))
    link = FakeLink()
    with caplog.at_level(logging.WARNING):
        kept = [private_slot(SIZE, pinning=link, node=1) for _ in range(2)]
    assert len(kept) == 2
    assert caplog.text.count("mbind failed with EPERM (test)") == 1
    assert caplog.text.count("lie elsewhere than on node 1") == 1


def test_more_than_the_machine_has_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8192 kB\nMemAvailable:   4096 kB\n")
    check_lockable(4 << 20, root=tmp_path)
    with pytest.raises(PipelineError, match=r"5 MiB does not fit into the 4 MiB.*memory limit"):
        check_lockable(5 << 20, root=tmp_path)
    check_lockable(5 << 20, root=tmp_path / "nowhere")


def _limited(root: Path, limits: dict[str, str], used: int, stat: str) -> None:
    """A container of version 2 in /pods/one, as /proc and /sys show it."""
    files = {
        "proc/self/mountinfo": "31 27 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/self/cgroup": "0::/pods/one\n",
        "sys/fs/cgroup/pods/one/memory.stat": stat,
    }
    for group in ("pods/one", "pods"):
        files[f"sys/fs/cgroup/{group}/memory.current"] = f"{used << 20}\n"
        files[f"sys/fs/cgroup/{group}/memory.max"] = limits.get(group, "max")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("group", ["pods/one", "pods"])
def test_more_than_the_container_may_have_is_refused_before(tmp_path: Path, group: str) -> None:
    _limited(tmp_path, {group: f"{64 << 20}\n"}, used=60, stat="anon 1\n")
    check_lockable(4 << 20, root=tmp_path)
    with pytest.raises(PipelineError, match=r"5 MiB does not fit into the 4 MiB that.*--memory"):
        check_lockable(5 << 20, root=tmp_path)


def test_pages_of_files_are_no_reason_to_refuse(tmp_path: Path) -> None:
    stat = f"inactive_file {20 << 20}\nactive_file {30 << 20}\n"
    _limited(tmp_path, {"pods/one": f"{64 << 20}\n"}, used=62, stat=stat)
    check_lockable(52 << 20, root=tmp_path)
    with pytest.raises(PipelineError, match="memory limit"):
        check_lockable(53 << 20, root=tmp_path)


def test_without_a_limit_nothing_is_refused(tmp_path: Path) -> None:
    _limited(tmp_path, {}, used=60, stat="")
    check_lockable(1 << 40, root=tmp_path)


@pytest.mark.parametrize("is_shared", [False, True])
def test_what_was_never_locked_is_not_unlocked(
    monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    def refuse(address: int, num_bytes: int) -> None:
        raise PipelineError("refused (test)")

    link = FakeLink()
    unlocked: list[int] = []
    monkeypatch.setattr(link, "pin", refuse)
    monkeypatch.setattr(link, "unpin", unlocked.append)
    with pytest.raises(PipelineError, match="refused"):
        (shared_slot if is_shared else private_slot)(SIZE, pinning=link)
    gc.collect()
    assert not unlocked


def test_a_failed_page_lock_says_what_to_raise() -> None:
    said = str(lock_failure(123, "cudaErrorMemoryAllocation"))
    assert "page-lock 123 bytes (cudaErrorMemoryAllocation); RLIMIT_MEMLOCK is" in said
    assert "ulimit -l" in said and "memlock=-1" in said

"""For real: a kernel with two nodes, booted in qemu, where a plan is made so and verified.

Needs qemu-system-x86_64 and a kernel image that IOPIPE_TEST_KERNEL names (Debian's
linux-image-cloud-amd64 does, no module is loaded).  Its processors are emulated: nested KVM hangs
on some hosts, and this boots in some ten seconds.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import iopipe

_QEMU = shutil.which("qemu-system-x86_64")
_KERNEL = os.environ.get("IOPIPE_TEST_KERNEL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (_QEMU and _KERNEL), reason="needs qemu-system-x86_64 and IOPIPE_TEST_KERNEL"
    ),
]

_IMPORTS = "import ctypes, dataclasses, functools, json, mmap, os, platform, re, sys, pathlib; "
_IMPORTS += "from iopipe.topology import *; import iopipe.topology.tree, encodings.ascii; "


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """What the guest saw; its console is in the failure where it said nothing."""
    initrd = tmp_path_factory.mktemp("vm") / "initrd"
    initrd.write_bytes(_archive(_files()))
    node = "-object memory-backend-ram,id=m{0},size=384M -numa node,nodeid={0},memdev=m{0},cpus={1}"
    command = (
        f"{_QEMU} -machine q35 -accel tcg -cpu max -smp 4 -m 768M "
        f"{node.format(0, '0-1')} {node.format(1, '2-3')} "
        "-numa dist,src=0,dst=1,val=31 -nodefaults -display none -serial stdio -no-reboot "
        "-device pxb-pcie,id=far,bus_nr=128,numa_node=1,bus=pcie.0 "
        "-device pcie-root-port,id=slot0,bus=far,slot=1,chassis=1 "
        f"-device virtio-rng-pci,bus=slot0 -kernel {_KERNEL} -initrd {initrd}"
    ).split()
    console = "console=ttyS0 panic=-1"
    done = subprocess.run([*command, "-append", console], capture_output=True, text=True)
    found = re.search(r"RESULT (\{.*\})", done.stdout)
    assert found, done.stdout[-4000:] + done.stderr[-2000:]
    said: dict[str, list[dict[str, object]]] = json.loads(found[1])
    return said


def test_nodes_and_distances_are_those_that_the_machine_was_built_with(
    answer: dict[str, list[object]],
) -> None:
    assert answer["nodes"] == [[0, [0, 1]], [1, [2, 3]]]
    assert answer["distances"] == [{"0": 10, "1": 31}, {"0": 31, "1": 10}]
    assert answer["has_memory"] == [True, True]


def test_devices_behind_the_far_bridge_are_on_node_one(answer: dict[str, list[object]]) -> None:
    assert 1 in answer["pci_nodes"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_runs_on_its_node_and_its_pages_are_there(
    answer: dict[str, list[dict[str, object]]], rank: int
) -> None:
    said = answer["ranks"][rank]
    assert said["problems"] == []
    assert said["cpus"] == [[0, 1], [2, 3]][rank]
    assert said["runs_on"] in [[0, 1], [2, 3]][rank]
    assert said["pages"] == {str(rank): 512}
    assert said["moved"] == {str(1 - rank): 512}
    assert said["interleaved"] == {"0": 256, "1": 256}
    assert said["afterwards"] == ["default", [0, 1, 2, 3]]


def _files() -> dict[str, bytes]:
    """The interpreter with the modules that the guest imports, their libraries, and the guest."""
    code = _IMPORTS + "print(*{m.__file__ for m in sys.modules.values() if hasattr(m, '__file__')})"
    package = Path(iopipe.__file__).parent
    run = [sys._base_executable, "-S", "-c", code]  # type: ignore[attr-defined]
    said = subprocess.run(
        run, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(package.parent)}
    )
    wanted = {Path(name) for name in said.stdout.split() if name not in {"None", ""}}
    binary = Path(os.path.realpath(run[0]))
    loaded = [binary, *(one for one in wanted if one.suffix == ".so")]
    found = {}
    for path in {*wanted, *loaded, *_libraries(loaded)}:
        if path.is_relative_to(package):
            found[f"project/iopipe/{path.relative_to(package)}"] = path.read_bytes()
        else:
            found[str(path).lstrip("/")] = path.read_bytes()
    guest = (Path(__file__).parent / "guest.py").read_bytes()
    return found | {"init": f"#!{binary} -S\n".encode() + guest}


def _libraries(binaries: list[Path]) -> set[Path]:
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=True).stdout
    return {Path(name) for name in re.findall(r"(/\S+) \(0x", said)}


def _archive(files: dict[str, bytes]) -> bytes:
    """A cpio archive of the format 'newc', see cpio(5): 13 numbers of 8 hexadecimal digits."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    members = [(name, 0o040755, b"") for name in sorted(folders)]
    members += [(name, 0o100755, content) for name, content in sorted(files.items())]
    out = io.BytesIO()
    for number, (name, mode, content) in enumerate([*members, ("TRAILER!!!", 0, b"")]):
        numbers = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + "".join(f"{one:08x}" for one in numbers).encode())
        for part in (name.encode() + b"\0", content):
            out.write(part + bytes(-(out.tell() + len(part)) % 4))
    return out.getvalue()

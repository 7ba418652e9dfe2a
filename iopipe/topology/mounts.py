"""From a path to the mount that holds it.

Stands in front of `topology.disks` and of the doctor's questions about storage.  Invariant: of two
mounts at one point the later hides the earlier.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from iopipe.topology.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of /proc/self/mountinfo.  Source: proc_pid_mountinfo(5)."""

    device: str
    """'major:minor'; major 0 is no block device (network, overlay, tmpfs, btrfs)."""
    root: str
    """Which part of the filesystem is mounted."""
    point: str
    options: frozenset[str]
    kind: str
    source: str
    super_options: frozenset[str]

    def option(self, name: str) -> str | None:
        """The value of 'name=value' among the options of the filesystem."""
        found = (option.partition("=") for option in self.super_options | self.options)
        return next((value for key, mark, value in found if mark and key == name), None)


def read_mounts(tree: Tree) -> tuple[Mount, ...]:
    lines = (tree.text("proc/self/mountinfo") or "").split("\n")
    return tuple(_mount(line) for line in lines if line)


def mount_of(tree: Tree, path: str) -> Mount | None:
    """The mount that holds `path`; links are followed; None where /proc does not say."""
    real = os.path.realpath(path).rstrip("/") + "/"
    best: Mount | None = None
    for mount in read_mounts(tree):
        is_parent = real.startswith(mount.point.rstrip("/") + "/")
        if is_parent and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")  # other white space is not escaped
    return Mount(
        device=left[2],
        root=_unescaped(left[3]),
        point=_unescaped(left[4]),
        options=frozenset(left[5].split(",")),
        kind=right[0],
        source=_unescaped(right[1]) if len(right) > 2 else "",
        super_options=frozenset(right[-1].split(",")),
    )


def _unescaped(text: str) -> str:
    r"""Blanks, tabs, newlines and backslashes are written as '\040' and so on."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

"""PCI links, and what stands between two devices that want to talk to each other.

Stands below the topics `storage` and `gpu`.  Invariant: of a device's configuration only what the
kernel shows to everybody is needed, and what only root sees is `unknown` for others.
"""

from __future__ import annotations

import struct

from iopipe.doctor.finding import Finding, Patient, Rule

_DEVICES = "sys/bus/pci/devices"
_FIRST_EXTENDED, _SHOWN_TO_ALL = 0x100, 64
_ACS = 0x000D
_REDIRECT = 0b1_1100
"""ACS control: request redirect, completion redirect, upstream forwarding: a packet for the
neighbour takes the way over the root.  Source: include/uapi/linux/pci_regs.h, PCI_ACS_*."""


def judge_link(here: Patient, rule: Rule, address: str, name: str, *, idles: bool) -> Finding:
    """`idles`: a device that lowers its speed, never its width, while it has nothing to do."""
    place = f"sys/bus/pci/devices/{address}"
    width, max_width = (here.text(f"{place}/{one}_link_width") for one in ("current", "max"))
    speed, max_speed = (here.text(f"{place}/{one}_link_speed") for one in ("current", "max"))
    command = rule.command.replace("ADDRESS", address)
    if not width or not max_width or width == "0" or "Unknown" in (speed or "Unknown"):
        return rule.unknown(f"{name}: no link shown (virtual machines mostly do not)")
    said = f"{name}: x{width} of x{max_width}, {speed} of {max_speed}"
    if width != max_width:
        return rule.warn(said, command=command)
    if speed == max_speed:
        return rule.ok(said)
    if idles:
        return rule.unknown(f"{said}: idle, ask again under load", command=command)
    return rule.warn(said, command=command)


def redirecting_bridges(here: Patient, address: str) -> list[str] | None:
    """The bridges above a device that send its packets for neighbours over the root (ACS); None
    where their configuration is not shown."""
    place = here.tree.real(f"{_DEVICES}/{address}") or ""
    above = [part for part in place.split("/")[:-1] if part.count(":") == 2]
    found = []
    for bridge in above:
        config = here.tree.content(f"{_DEVICES}/{bridge}/config")
        if config is None or len(config) <= _SHOWN_TO_ALL:
            return None
        if _acs_control(config) & _REDIRECT:
            found.append(bridge)
    return found


def _acs_control(config: bytes) -> int:
    """0 where the device has no ACS.  Capabilities are a chain of (number, version and next): 16,
    4 and 12 bits; its offsets only grow in sound devices, and more than 960 are none."""
    offset = _FIRST_EXTENDED
    for _ in range(960):
        if offset < _FIRST_EXTENDED or offset + 8 > len(config):
            return 0
        (header,) = struct.unpack_from("<I", config, offset)
        if header & 0xFFFF == _ACS:
            control: int = struct.unpack_from("<H", config, offset + 6)[0]
            return control
        offset = header >> 20
    return 0

"""The kernel's settings and the machine's load, as far as they slow the input down.

Stands beside the other topics of `doctor.examine`.  Invariant: thresholds are bounds below which
something is known to be lost, not tastes; each has its source in README.md beside this file.
"""

from __future__ import annotations

from iopipe.doctor.finding import Check, Finding, Patient, Rule, bracketed, in_gib
from iopipe.topology.tree import format_cpus

_VM = "proc/sys/vm"
_THP = "sys/kernel/mm/transparent_hugepage"

_GOVERNOR = Rule(
    name="host.governor",
    threshold="performance",
    why="threads that wait for storage wake up on a slow clock",
    who="admin",
    command="cpupower frequency-set -g performance",
)
_HUGE_PAGES = Rule(
    name="host.huge_pages",
    threshold="always or madvise",
    why="large slabs in pages of 4 KiB cost translation misses and slow page locking",
    who="admin",
    command=f"echo madvise > /{_THP}/enabled",
)
_SHARED_HUGE_PAGES = Rule(
    name="host.shared_huge_pages",
    threshold="always, within_size, advise or force",
    why="batches of worker processes travel through shared memory, which has a switch of its own",
    who="admin",
    command=f"echo advise > /{_THP}/shmem_enabled",
)
_SWAP = Rule(
    name="host.swap",
    threshold="no swap, or swappiness of at most 10",
    why="buffers that were written to disk come back one page fault at a time",
    who="admin",
    command="sysctl vm.swappiness=1",
)
_SWAPPED = Rule(
    name="host.swapped_out",
    threshold="less than 5 % of the swap in use",
    why="memory has been short: what was swapped out stalls whoever touches it",
    who="user",
    command="swapoff -a && swapon -a",
)
_BALANCING = Rule(
    name="host.numa_balancing",
    threshold="0 where threads are bound to nodes",
    why="the kernel unmaps pages to see who uses them, and bound threads pay the faults",
    who="admin",
    command="sysctl kernel.numa_balancing=0",
)
_DIRTY = Rule(
    name="host.dirty_pages",
    threshold="dirty_ratio of at most 40, dirty_bytes of at least 64 MiB",
    why="a checkpoint's writes stall in one long piece (too high) or all the time (too low)",
    who="admin",
    command="sysctl vm.dirty_background_ratio=5 vm.dirty_ratio=20",
)
_MEMORY = Rule(
    name="host.available_memory",
    threshold="at least 10 % of the memory",
    why="the page cache that would hold the dataset is what is left over",
    who="user",
    command="ps aux --sort=-rss | head",
)
_ISOLATED = Rule(
    name="host.isolated_cpus",
    threshold="none among the CPUs of this process",
    why="the kernel does not balance load between them: a mask of several piles up on one",
    who="admin",
    command="boot without isolcpus=, or use a cpuset",
)
_STEAL = Rule(
    name="host.stolen_time",
    threshold="less than 2 % of CPU time since the start",
    why="other tenants of the host took these cores while threads were ready to run",
    who="cloud",
)
_PRESSURE_WHY = "tasks wait for it already, before this run adds its own load"


def governor(here: Patient) -> Finding:
    names = here.tree.names("sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_governor")
    cpus = here.tree.names("sys/devices/system/cpu", "cpu[0-9]*") if names else []
    found = {here.text(f"sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor") for cpu in cpus}
    said = sorted(one for one in found if one)
    if not said:
        return _GOVERNOR.unknown("this machine shows no cpufreq (virtual ones mostly do not)")
    return (_GOVERNOR.ok if said == ["performance"] else _GOVERNOR.warn)(", ".join(said))


def huge_pages(here: Patient) -> Finding:
    return _thp(here, _HUGE_PAGES, "enabled", {"never"})


def shared_huge_pages(here: Patient) -> Finding:
    return _thp(here, _SHARED_HUGE_PAGES, "shmem_enabled", {"never", "deny"})


def _thp(here: Patient, rule: Rule, name: str, bad: set[str]) -> Finding:
    text = here.text(f"{_THP}/{name}")
    if text is None:
        return rule.unknown(f"no /{_THP}/{name}")
    chosen = bracketed(text)
    return (rule.warn if chosen in bad else rule.ok)(chosen)


def swap(here: Patient) -> Finding:
    total, value = here.kilobytes("proc/meminfo", "SwapTotal"), here.number(f"{_VM}/swappiness")
    if total == 0:
        return _SWAP.ok("no swap")
    if total is None or value is None:
        return _SWAP.unknown("no /proc/meminfo or swappiness")
    said = f"swappiness {value}, {in_gib(total)} of swap"
    return _SWAP.ok(said) if value <= 10 else _SWAP.warn(said)


def swapped_out(here: Patient) -> Finding:
    total = here.kilobytes("proc/meminfo", "SwapTotal")
    free = here.kilobytes("proc/meminfo", "SwapFree")
    if total is None or free is None:
        return _SWAPPED.unknown("no /proc/meminfo")
    said = f"{in_gib(total - free)} of {in_gib(total)}"
    return _SWAPPED.warn(said) if total - free > 0.05 * total else _SWAPPED.ok(said)


def numa_balancing(here: Patient) -> Finding:
    value = here.number("proc/sys/kernel/numa_balancing")
    if len(here.topology.nodes) < 2:
        return _BALANCING.ok("a single node")
    if value is None:
        return _BALANCING.unknown("no /proc/sys/kernel/numa_balancing")
    said = f"{value} with {len(here.topology.nodes)} nodes"
    return _BALANCING.ok(said) if value == 0 else _BALANCING.warn(said)


def dirty_pages(here: Patient) -> Finding:
    ratio, num_bytes = here.number(f"{_VM}/dirty_ratio"), here.number(f"{_VM}/dirty_bytes")
    if num_bytes:
        said = f"dirty_bytes {num_bytes}"
        return _DIRTY.ok(said) if num_bytes >= 64 << 20 else _DIRTY.warn(said)
    if ratio is None:
        return _DIRTY.unknown(f"no /{_VM}/dirty_ratio")
    return (_DIRTY.ok if ratio <= 40 else _DIRTY.warn)(f"dirty_ratio {ratio} %")


def available_memory(here: Patient) -> Finding:
    total = here.kilobytes("proc/meminfo", "MemTotal")
    available = here.kilobytes("proc/meminfo", "MemAvailable")
    if not total or available is None:
        return _MEMORY.unknown("no /proc/meminfo")
    said = f"{in_gib(available)} of {in_gib(total)}"
    return _MEMORY.ok(said) if available >= 0.1 * total else _MEMORY.warn(said)


def isolated_cpus(here: Patient) -> Finding:
    if not here.topology.limits.cpus:
        return _ISOLATED.unknown("the CPUs of this process are not known")
    both = tuple(set(here.topology.isolated) & set(here.topology.limits.cpus))
    return _ISOLATED.warn(format_cpus(both)) if both else _ISOLATED.ok("none")


def stolen_time(here: Patient) -> Finding:
    """The first line of /proc/stat holds ticks; the eighth number is steal, see proc_stat(5)."""
    words = (here.text("proc/stat") or "").partition("\n")[0].split()
    if len(words) < 9:
        return _STEAL.unknown("no /proc/stat")
    ticks = [int(word) for word in words[1:9]]  # guests' time is within user's
    share = ticks[7] / max(1, sum(ticks))
    return (_STEAL.ok if share < 0.02 else _STEAL.warn)(f"{100 * share:.1f} %")


def pressure(here: Patient) -> list[Finding]:
    return [_pressure(here, what) for what in ("cpu", "io", "memory")]


def _pressure(here: Patient, what: str) -> Finding:
    """'some avg60=' of /proc/pressure, see the kernel's psi document."""
    rule = Rule(
        name=f"host.pressure_{what}",
        threshold="some task waits for it less than 10 % of the last minute",
        why=_PRESSURE_WHY,
        who="user",
        command="systemd-cgtop",
    )
    words = (here.text(f"proc/pressure/{what}") or "").split()
    shares = [float(word.removeprefix("avg60=")) for word in words if word.startswith("avg60=")]
    if not shares:
        return rule.unknown("this kernel measures no pressure (psi=1 switches it on)")
    return (rule.ok if shares[0] < 10 else rule.warn)(f"{shares[0]:g} %")


CHECKS: tuple[Check, ...] = (
    governor,
    huge_pages,
    shared_huge_pages,
    swap,
    swapped_out,
    numa_balancing,
    dirty_pages,
    available_memory,
    isolated_cpus,
    stolen_time,
    pressure,
)

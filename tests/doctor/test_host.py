"""The kernel's settings: every verdict of every check, on machines made of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.patient import Case, ask_all, assert_says, cases
from fakes.tree import FakeMachine

from iopipe.doctor import host

_THP = "sys/kernel/mm/transparent_hugepage"
_CPU = "sys/devices/system/cpu"
_VM = "proc/sys/vm"


def _memory(**kilobytes: int) -> dict[str, str]:
    return {"proc/meminfo": "".join(f"{name}:  {kb} kB\n" for name, kb in kilobytes.items())}


def _governors(*names: str) -> dict[str, str]:
    return {
        f"{_CPU}/cpu{cpu}/cpufreq/scaling_governor": f"{name}\n" for cpu, name in enumerate(names)
    }


@cases(
    Case(check=host.governor, verdict="unknown", says="no cpufreq"),
    Case(
        check=host.governor,
        verdict="ok",
        says="performance",
        files=_governors("performance", "performance"),
    ),
    Case(
        check=host.governor,
        verdict="warn",
        says="performance, powersave",
        files=_governors("performance", "powersave"),
    ),
    Case(check=host.huge_pages, verdict="unknown", says="no /sys/kernel/mm"),
    Case(
        check=host.huge_pages,
        verdict="ok",
        says="madvise",
        files={f"{_THP}/enabled": "always [madvise] never\n"},
    ),
    Case(
        check=host.huge_pages,
        verdict="warn",
        says="never",
        files={f"{_THP}/enabled": "always madvise [never]\n"},
    ),
    Case(check=host.shared_huge_pages, verdict="unknown", says="shmem_enabled"),
    Case(
        check=host.shared_huge_pages,
        verdict="ok",
        says="advise",
        files={f"{_THP}/shmem_enabled": "always within_size [advise] never deny force\n"},
    ),
    Case(
        check=host.shared_huge_pages,
        verdict="warn",
        says="never",
        files={f"{_THP}/shmem_enabled": "always within_size advise [never] deny force\n"},
    ),
    Case(check=host.swap, verdict="unknown", says="no /proc/meminfo"),
    Case(check=host.swap, verdict="ok", says="no swap", files=_memory(SwapTotal=0)),
    Case(
        check=host.swap,
        verdict="ok",
        says="swappiness 1,",
        files={**_memory(SwapTotal=1 << 20), f"{_VM}/swappiness": "1\n"},
    ),
    Case(
        check=host.swap,
        verdict="warn",
        says="swappiness 60, 1 GiB of swap",
        files={**_memory(SwapTotal=1 << 20), f"{_VM}/swappiness": "60\n"},
    ),
    Case(check=host.swapped_out, verdict="unknown", says="no /proc/meminfo"),
    Case(
        check=host.swapped_out,
        verdict="ok",
        says="0 GiB of 1 GiB",
        files=_memory(SwapTotal=1 << 20, SwapFree=1 << 20),
    ),
    Case(
        check=host.swapped_out,
        verdict="warn",
        says="0.5 GiB of 1 GiB",
        files=_memory(SwapTotal=1 << 20, SwapFree=1 << 19),
    ),
    Case(check=host.numa_balancing, verdict="ok", says="a single node"),
    Case(check=host.numa_balancing, verdict="unknown", says="no /proc", has_nodes=True),
    Case(
        check=host.numa_balancing,
        verdict="ok",
        says="0 with 2 nodes",
        has_nodes=True,
        files={"proc/sys/kernel/numa_balancing": "0\n"},
    ),
    Case(
        check=host.numa_balancing,
        verdict="warn",
        says="1 with 2 nodes",
        has_nodes=True,
        files={"proc/sys/kernel/numa_balancing": "1\n"},
    ),
    Case(check=host.dirty_pages, verdict="unknown", says="no /proc/sys/vm/dirty_ratio"),
    Case(
        check=host.dirty_pages,
        verdict="ok",
        says="20 %",
        files={f"{_VM}/dirty_ratio": "20\n", f"{_VM}/dirty_bytes": "0\n"},
    ),
    Case(
        check=host.dirty_pages,
        verdict="warn",
        says="80 %",
        files={f"{_VM}/dirty_ratio": "80\n", f"{_VM}/dirty_bytes": "0\n"},
    ),
    Case(
        check=host.dirty_pages,
        verdict="ok",
        says="dirty_bytes 1073741824",
        files={f"{_VM}/dirty_ratio": "0\n", f"{_VM}/dirty_bytes": "1073741824\n"},
    ),
    Case(
        check=host.dirty_pages,
        verdict="warn",
        says="dirty_bytes 1048576",
        files={f"{_VM}/dirty_ratio": "0\n", f"{_VM}/dirty_bytes": "1048576\n"},
    ),
    Case(check=host.available_memory, verdict="unknown", says="no /proc/meminfo"),
    Case(
        check=host.available_memory,
        verdict="ok",
        says="1 GiB of 4 GiB",
        files=_memory(MemTotal=4 << 20, MemAvailable=1 << 20),
    ),
    Case(
        check=host.available_memory,
        verdict="warn",
        says="0.25 GiB of 4 GiB",
        files=_memory(MemTotal=4 << 20, MemAvailable=1 << 18),
    ),
    Case(check=host.isolated_cpus, verdict="ok", says="none", files={f"{_CPU}/isolated": "\n"}),
    Case(
        check=host.isolated_cpus,
        verdict="warn",
        says="2-3",
        files={f"{_CPU}/isolated": "2-3\n"},
    ),
    Case(
        check=host.isolated_cpus,
        verdict="unknown",
        says="not known",
        files={f"{_CPU}/online": ""},
    ),
    Case(check=host.stolen_time, verdict="unknown", says="no /proc/stat"),
    Case(
        check=host.stolen_time,
        verdict="ok",
        says="1.0 %",
        files={"proc/stat": "cpu  49 0 0 50 0 0 0 1 0 0\ncpu0 0"},
    ),
    Case(
        check=host.stolen_time,
        verdict="warn",
        says="10.0 %",
        files={"proc/stat": "cpu  40 0 0 50 0 0 0 10 0 0\ncpu0 0"},
    ),
)
def test_the_host(case: Case, tmp_path: Path) -> None:
    assert_says(case, tmp_path)


@pytest.mark.parametrize(("share", "verdict"), [("2.50", "ok"), ("40.00", "warn")])
def test_pressure_of_all_three_kinds(share: str, verdict: str, tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    line = f"some avg10=0.00 avg60={share} avg300=0.00 total=9\nfull avg10=0.00 avg60=99.0"
    machine.write({f"proc/pressure/{what}": line for what in ("cpu", "io")})
    found = ask_all(machine, host.pressure)
    names = ["host.pressure_cpu", "host.pressure_io", "host.pressure_memory"]
    assert [one.name for one in found] == names
    assert [one.verdict for one in found] == [verdict, verdict, "unknown"]

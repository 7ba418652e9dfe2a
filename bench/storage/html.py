"""The results as a page: what limits, curves over queue depth and block size, latencies, roofline.

Stands beside `table`.  Invariant: the page is drawn from the JSON alone, so a page of an old file
says the same; it loads and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from iopipe.bench.storage.curves import Axis, Series, curves
from iopipe.bench.storage.jobs import in_binary
from iopipe.bench.storage.table import is_flagged, jobs_of, median_of
from iopipe.report.charts import in_time
from iopipe.report.page import page, write_at_once

_Runs = Sequence[Mapping[str, Any]]

_GBPS = Axis(label="GB/s", write=lambda value: f"{value:g}")
_DEPTH = Axis(label="queue depth", write=lambda value: f"{value:g}", log=2)
_BLOCK = Axis(label="block size", write=in_binary, log=2)
_LATENCY = Axis(label="latency", write=lambda us: in_time(us / 1e3), log=10)
_LOG_GBPS = Axis(label="GB/s", write=lambda value: f"{value:g}", log=10)


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    write_at_once(path, page("iopipe bench storage", list(_parts(content))))


def _parts(content: Mapping[str, Any]) -> Iterator[str]:
    rows = content["rows"]
    yield "<h1>iopipe bench storage</h1>"
    if not rows:
        yield '<p class="verdict">Nothing could be measured</p>'
    for target in dict.fromkeys(str(row["target"]) for row in rows):
        jobs = list(jobs_of(row for row in rows if row["target"] == target).values())
        yield f'<p class="verdict">{escape(_verdict(target, jobs))}</p>'
        for access in dict.fromkeys(str(runs[0]["access"]) for runs in jobs):
            yield from _pictures(access, [runs for runs in jobs if runs[0]["access"] == access])
        yield "<h2>All numbers</h2>"
        yield _table(jobs)
    yield from _skipped(content.get("skipped", ()))
    yield "<h2>Environment</h2>"
    yield _pairs(content["environment"])
    yield (
        "<footer>GB are 10<sup>9</sup> bytes. Points are medians of the runs. A mark (!) says that "
        "throughput and latency do not fit together (Little's law): the queue was not full all "
        f"the time. <br>{escape(str(content.get('command', '')))}</footer>"
    )


def _verdict(target: str, jobs: Sequence[_Runs]) -> str:
    best = max(jobs, key=lambda runs: median_of(runs, "gbps"))
    most = max(jobs, key=lambda runs: median_of(runs, "iops"))
    return (
        f"{target}: up to {median_of(best, 'gbps'):.2f} GB/s ({_job(best[0])}) and "
        f"{median_of(most, 'iops'):,.0f} reads/s ({_job(most[0])})"
    )


def _job(row: Mapping[str, Any]) -> str:
    return (
        f"{_way(row)}, {row['access']}, {in_binary(row['block_bytes'])}, depth {row['queue_depth']}"
    )


def _way(row: Mapping[str, Any]) -> str:
    """What a series is: backend, page cache, destination."""
    cache = "O_DIRECT" if row["direct"] else str(row["cache"])
    end = "" if row["destination"] == "host" else f" to {row['destination']}"
    return f"{row['backend']} {cache}{end}"


def _pictures(access: str, jobs: Sequence[_Runs]) -> Iterator[str]:
    ways = list(dict.fromkeys(_way(runs[0]) for runs in jobs))
    for block in sorted({runs[0]["block_bytes"] for runs in jobs}):
        some = [runs for runs in jobs if runs[0]["block_bytes"] == block]
        title = f"{access}, {in_binary(block)}: bandwidth against queue depth"
        yield from _picture(title, _by(some, ways, "queue_depth", "gbps"), _DEPTH, _GBPS)
        for name in ("p50", "p99"):
            title = f"{access}, {in_binary(block)}: {name} latency against queue depth"
            lines = _by(some, ways, "queue_depth", f"{name}_us")
            yield from _picture(title, lines, _DEPTH, _LATENCY)
    depth = max(runs[0]["queue_depth"] for runs in jobs)
    some = [runs for runs in jobs if runs[0]["queue_depth"] == depth]
    title = f"{access}, depth {depth}: bandwidth against block size"
    yield from _picture(title, _by(some, ways, "block_bytes", "gbps"), _BLOCK, _GBPS)
    title = f"{access}: roofline, the best of each block size below what reads/s and GB/s allow"
    yield from _picture(title, _roofline(jobs, ways), _BLOCK, _LOG_GBPS)


def _picture(title: str, lines: Sequence[Series], x: Axis, y: Axis) -> Iterator[str]:
    drawn = curves(lines, x=x, y=y, label=title)
    if drawn:
        yield f"<h2>{escape(title)}</h2>"
        yield drawn


def _by(jobs: Sequence[_Runs], ways: Sequence[str], x: str, y: str) -> list[Series]:
    """A series a way: medians of `y` over `x`."""
    found = []
    for look, way in enumerate(ways):
        runs = sorted((r for r in jobs if _way(r[0]) == way), key=lambda r: float(r[0][x]))
        if runs:
            found.append(
                Series(
                    name=way,
                    points=[(float(r[0][x]), median_of(r, y)) for r in runs],
                    look=look,
                    titles=[_title(r) for r in runs],
                )
            )
    return found


def _title(runs: _Runs) -> str:
    times = ", ".join(
        f"{name} {in_time(median_of(runs, key) / 1e3)}"
        for name, key in (("p50", "p50_us"), ("p99", "p99_us"))
    )
    return f"{_job(runs[0])}: {median_of(runs, 'gbps'):.3f} GB/s, {times}"


def _roofline(jobs: Sequence[_Runs], ways: Sequence[str]) -> list[Series]:
    """Of each way the best depth, and the roof: the most reads/s times the block, at most the
    greatest GB/s."""
    blocks = sorted({float(runs[0]["block_bytes"]) for runs in jobs})
    most_iops = max(median_of(runs, "iops") for runs in jobs)
    most_gbps = max(median_of(runs, "gbps") for runs in jobs)
    knee = most_gbps * 1e9 / most_iops
    places = sorted({*blocks, *([knee] if blocks[0] < knee < blocks[-1] else [])})
    roof = [(place, min(most_iops * place / 1e9, most_gbps)) for place in places]
    lines = []
    for look, way in enumerate(ways):
        best: dict[float, _Runs] = {}
        for runs in (one for one in jobs if _way(one[0]) == way):
            block = float(runs[0]["block_bytes"])
            if block not in best or median_of(runs, "gbps") > median_of(best[block], "gbps"):
                best[block] = runs
        ordered = sorted(best.items())
        lines.append(
            Series(
                name=way,
                points=[(block, median_of(runs, "gbps")) for block, runs in ordered],
                look=look,
                titles=[_title(runs) for _, runs in ordered],
            )
        )
    top = Series(name="roof", points=roof, look=len(ways), dashed=True, has_marks=False)
    return [top, *lines]


def _table(jobs: Sequence[_Runs]) -> str:
    heads = ("job", "GB/s", "reads/s", "p50", "p95", "p99", "p99.9", "max", "CPU s/GB")
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(_cells(runs))}</tr>" for runs in jobs)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _cells(runs: _Runs) -> Iterator[str]:
    mark = " !" if is_flagged(runs) else ""
    yield f"<td>{escape(_job(runs[0]))}</td>"
    yield f"<td>{median_of(runs, 'gbps'):.3f}{mark}</td><td>{median_of(runs, 'iops'):,.0f}</td>"
    for name in ("p50_us", "p95_us", "p99_us", "p99_9_us", "max_us"):
        yield f"<td>{in_time(median_of(runs, name) / 1e3)}</td>"
    yield f"<td>{median_of(runs, 'cpu_seconds_per_gb'):.3f}</td>"


def _skipped(skipped: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if skipped:
        yield "<h2>Not measured</h2>"
        for one in skipped:
            yield f"<p>{escape(one['what'])}: {escape(one['reason'])}</p>"


def _pairs(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_words(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"


def _words(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

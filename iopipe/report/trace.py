"""Chrome trace JSON of a run, which Perfetto and chrome://tracing open.

Stands at the end of the flow, beside the page.  Invariant: a track's events never overlap,
and events of a file that it is merged with are left as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iopipe.errors import DataError
from iopipe.meter.figures import NOT_INPUT
from iopipe.meter.history import History
from iopipe.meter.timeline import Timeline
from iopipe.report.content import Reported, content_of, timeline_of
from iopipe.report.page import write_at_once

PROCESS = 0x10F1BE
"""Of our tracks; torch.profiler's own have the numbers of real processes, small ones for GPUs."""
_STEPS, _STALLS, _COPIES, _HOST, _STAGES = 1, 2, 3, 4, 10
_TRACKS = {_STEPS: "steps", _STALLS: "input stalls", _COPIES: "copies", _HOST: "host"}
_COPY_CAUSES = frozenset({"h2d", "gpu_decode"})

Event = dict[str, Any]


def write_trace(
    report: Reported | Mapping[str, Any],
    history: History | Timeline,
    path: str | os.PathLike[str],
    *,
    merge: str | os.PathLike[str] | None = None,
    offset_us: float = 0.0,
) -> None:
    """Steps, stalls, copies and stages as tracks; `merge` names a file of torch.profiler.

    `offset_us` moves our clock onto that of the merged file: its time less ours at one
    instant.  Steps are exact where the history is; older ones come several to an event.
    Within a step only lengths are known, so its idle times stand at its end, where a step
    waits for its batch.  `DataError` where `merge` is no trace.
    Source: the Trace Event Format (Google, 2016), complete, counter and metadata events.
    """
    content, timeline = content_of(report), timeline_of(history)
    base = _merged(Path(merge)) if merge is not None else {"traceEvents": []}
    ours = [
        *_names(content),
        *_bucket_events(timeline, offset_us),
        *_stages(content, timeline, offset_us),
    ]
    trace = {
        **base,
        "traceEvents": [*base["traceEvents"], *ours],
        "displayTimeUnit": "ms",
        "iopipe": {"verdict": str(content.get("verdict", ""))},
    }
    write_at_once(path, json.dumps(trace) + "\n")


def _merged(path: Path) -> dict[str, Any]:
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no trace: {error}") from error
    if isinstance(trace, list):  # the format's short form
        trace = {"traceEvents": trace}
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        raise DataError(f"{path} is no trace: it has no list traceEvents")
    return trace


def _names(content: Mapping[str, Any]) -> Iterator[Event]:
    yield _about("process_name", 0, {"name": "iopipe"})
    yield _about("process_sort_index", 0, {"sort_index": -1})
    stages = {_STAGES + n: f"stage {s.get('name', n)}" for n, s in _numbered(content)}
    for track, name in {**_TRACKS, **stages}.items():
        yield _about("thread_name", track, {"name": name})
        yield _about("thread_sort_index", track, {"sort_index": track})


def _bucket_events(timeline: Timeline, offset_us: float) -> Iterator[Event]:
    first = 0
    for n, count in enumerate(timeline.counts.tolist()):
        sums = timeline.sums[n].tolist()
        start_us = int(timeline.started_ns[n]) / 1e3 + offset_us
        length_us = int(timeline.ended_ns[n] - timeline.started_ns[n]) / 1e3
        idle = {c: ns for c, ns in zip(timeline.causes, sums[1:], strict=True) if ns > 0}
        name = f"step {first}" if count == 1 else f"steps {first} to {first + count - 1}"
        details = {
            "num_steps": count,
            "mean_ms": sums[0] / count / 1e6,
            "longest_ms": int(timeline.highest[n, 0]) / 1e6,
        }
        yield _lasting(name, _STEPS, start_us, length_us, details)
        yield from _idle_events(idle, start_us, length_us)
        shares = {cause: ns / sums[0] for cause, ns in idle.items()} if sums[0] else {}
        every = {cause: round(shares.get(cause, 0.0), 6) for cause in timeline.causes}
        yield _event("idle share", "C", 0, start_us, args=every)
        first += count


def _idle_events(idle: dict[str, int], start_us: float, length_us: float) -> Iterator[Event]:
    end_us = {track: start_us + length_us for track in (_STALLS, _COPIES, _HOST)}
    for cause in reversed(idle):
        tracks = [_HOST if cause in NOT_INPUT else _STALLS]
        tracks += [_COPIES] * (cause in _COPY_CAUSES)
        for track in tracks:
            begin_us = max(end_us[track] - idle[cause] / 1e3, start_us)
            yield _lasting(cause, track, begin_us, end_us[track] - begin_us, {})
            end_us[track] = begin_us


def _stages(content: Mapping[str, Any], timeline: Timeline, offset_us: float) -> Iterator[Event]:
    """What a report knows of a stage is of the whole run: one event, with its shares."""
    if not timeline.num_steps:
        return
    start_us = int(timeline.started_ns[0]) / 1e3 + offset_us
    length_us = int(timeline.ended_ns[-1] - timeline.started_ns[0]) / 1e3
    for n, stage in _numbered(content):
        name = f"{stage.get('name', n)}: busy {100 * float(stage.get('busy', 0.0)):.0f} %"
        yield _lasting(name, _STAGES + n, start_us, length_us, dict(stage))


def _numbered(content: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return enumerate(content.get("stages", ()))


def _lasting(
    name: str, track: int, start_us: float, length_us: float, details: Mapping[str, Any]
) -> Event:
    return _event(name, "X", track, start_us, dur=length_us, args=dict(details))


def _about(name: str, track: int, details: Mapping[str, Any]) -> Event:
    return _event(name, "M", track, 0.0, args=dict(details))


def _event(name: str, kind: str, track: int, at_us: float, **more: Any) -> Event:
    return {"name": name, "cat": "iopipe", "ph": kind, "pid": PROCESS, "tid": track} | {
        "ts": at_us,
        **more,
    }

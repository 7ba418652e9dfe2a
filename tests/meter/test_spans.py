"""Attribution of a wait to the stages that made the batch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iopipe.meter.edges import EdgeStats
from iopipe.meter.spans import Span, attribute

STORY = [
    Span("read", "storage", 0, 10),
    Span("decode", "decode", 30, 50),
    Span("collate", "collate", 55, 60),
]


def test_a_wait_is_charged_to_the_stage_that_came_next() -> None:
    assert attribute(STORY, 5, 70) == {"storage": 5, "decode": 40, "collate": 10, "queue": 10}
    assert attribute(STORY, 35, 45) == {"decode": 10}
    assert attribute(STORY, 15, 25) == {"decode": 10}  # it stood in front of the decoders
    assert attribute(STORY, 62, 70) == {"queue": 8}
    assert attribute([], 0, 5) == {"queue": 5}
    second = [Span("read", "storage", 12, 20), Span("decode", "decode", 50, 80)]
    assert attribute([*STORY[:2], *second], 5, 80) == {"storage": 5, "decode": 70}
    late = [Span("read", "storage", 12, 75), Span("decode", "decode", 75, 80)]
    assert attribute([*STORY[:2], *late], 5, 80) == {"storage": 30, "decode": 45}
    assert attribute(STORY, 20, 20) == {}


@given(
    ends=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=6),
    start=st.integers(0, 150),
    length=st.integers(0, 150),
)
def test_the_parts_add_up(ends: list[tuple[int, int]], start: int, length: int) -> None:
    causes = ("storage", "decode", "transform", "collate", "queue", "h2d")
    ordered = sorted(ends, key=lambda pair: pair[1])
    spans = [
        Span(cause, cause, min(pair), pair[1]) for cause, pair in zip(causes, ordered, strict=False)
    ]
    parts = attribute(spans, start, start + length)
    assert sum(parts.values()) == length
    assert all(part > 0 for part in parts.values())


def test_edges_know_their_mean_occupancy_and_who_waited() -> None:
    stats = EdgeStats("decode", 4)
    stats.on_put(5, 1, 100)
    stats.on_put(0, 2, 110)
    stats.on_get(7, 1, 130)
    stats.on_get(3, 0, 140)
    report = stats.snapshot()
    assert report.mean_occupancy == (1 * 10 + 2 * 20 + 1 * 10) / 40
    assert (report.num_items, report.put_wait_seconds, report.get_wait_seconds) == (2, 5e-9, 1e-8)

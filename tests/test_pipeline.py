"""The builder: illegal graphs fail when built, with the fix in the message."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes.source import numbers

from iopipe.errors import PipelineError
from iopipe.pipeline import Pipeline


@pytest.mark.parametrize(
    ("build", "fix"),
    [
        (lambda p: p.to("cpu"), r"call batch\(n\) before"),
        (lambda p: p.batch(0), "at least 1"),
        (lambda p: p.batch(2).batch(2), "call it once"),
        (lambda p: p.batch(2).decode(size=8), r"before batch"),
        (lambda p: p.batch(2).to("cpu").map(dict), "call it before"),
        (lambda p: p.batch(2).to("cpu").to("cpu"), "call it before"),
        (lambda p: p.batch(2).to("cpu", prefetch=0), "at least 1"),
        (lambda p: p.shuffle(1).shuffle(2), "call it once"),
        (lambda p: p.map(dict, concurrency=0), "at least 1"),
        (lambda p: p.split(3, 3), "rank"),
    ],
)
def test_illegal_graphs_are_refused(build: Callable[[Pipeline], Pipeline], fix: str) -> None:
    with pytest.raises(PipelineError, match=fix):
        build(numbers(10))


def test_a_pipeline_is_a_value() -> None:
    first = numbers(10)
    second = first.shuffle(1).batch(4)
    assert first.batch_size is None
    assert first.order.sequence.identity()["shuffle"] == "none"
    assert second.batch_size == 4


def test_describe_names_every_stage() -> None:
    text = numbers(10).shuffle(5).map(dict, name="tidy").decode(size=8).batch(4).describe()
    for word in ("10 samples", "seed 5", "read", "tidy", "decode", "batch: 4", "on cpu"):
        assert word in text

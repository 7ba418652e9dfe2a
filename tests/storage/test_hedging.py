"""What is late, and what a second request may cost, on a clock that tests move."""

from __future__ import annotations

import pytest

from iopipe.protocols import ReadRequest
from iopipe.storage.hedging import Hedges, Over, Race, RacedReads


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def race_of(num_bytes: int, *, begun: float | None) -> Race:
    request = ReadRequest("p", 0, memoryview(bytearray(num_bytes)))
    race = RacedReads([request], look_after=lambda _: None).races[0]
    race.begun = begun
    return race


def test_late_is_what_is_longer_than_nearly_all() -> None:
    hedges = Hedges(share=0.02)
    for _ in range(49):
        hedges.served(1000, 0.1)
    assert hedges.unusual_seconds(1000) is None  # too few to say
    hedges.served(1000, 0.1)
    assert hedges.unusual_seconds(1000) == pytest.approx(0.3)
    for number in range(200):
        hedges.served(1000, 1.0 if number % 20 == 0 else 0.1)
    assert hedges.unusual_seconds(1000) == 1.0  # one in twenty-five takes that long
    assert hedges.unusual_seconds(1 << 20) is None
    for _ in range(300):
        hedges.served(1000, 0.001)
    assert hedges.unusual_seconds(1000) == 0.05


def test_second_requests_are_paid_for_with_bytes() -> None:
    clock, part = Clock(), 1 << 20
    hedges = Hedges(share=0.02, clock=clock)
    for _ in range(100):
        hedges.served(part, 0.1)
    late = [race_of(part, begun=clock.now - 5) for _ in range(9)]
    assert [hedges.may_ask_twice(race) for race in late] == [True] * 2 + [False] * 7
    assert not hedges.may_ask_twice(late[0])  # once is enough
    for _ in range(50):
        hedges.served(part, 0.1)
    assert hedges.may_ask_twice(late[3]) and not hedges.may_ask_twice(late[4])
    assert hedges.num_hedged == 3


def test_what_is_not_late_or_not_sent_is_not_asked_twice() -> None:
    clock = Clock()
    hedges = Hedges(share=1, clock=clock)
    for _ in range(100):
        hedges.served(1000, 0.1)
    assert not hedges.may_ask_twice(race_of(1000, begun=None))
    assert not hedges.may_ask_twice(race_of(1000, begun=clock.now - 0.29))
    done = race_of(1000, begun=clock.now - 9)
    done.win(memoryview(b"x"))
    assert not hedges.may_ask_twice(done)
    none = Hedges(share=0, clock=clock)
    for _ in range(100):
        none.served(1000, 0.1)
    assert not none.may_ask_twice(race_of(1000, begun=clock.now - 9))


def test_the_first_answer_counts_and_the_buffer_is_left_alone_then() -> None:
    buffer = bytearray(4)
    reads = RacedReads([ReadRequest("p", 0, memoryview(buffer))], look_after=lambda _: None)
    race = reads.races[0]
    race.put(0, memoryview(b"ab"))
    race.win(memoryview(b"1234"))
    with pytest.raises(Over):
        race.put(2, memoryview(b"cd"))
    with pytest.raises(Over):
        race.done(4)
    with pytest.raises(Over):
        race.win(memoryview(b"abcd"))
    race.fail(OSError("too late to fail"))
    assert reads.wait() == [4] and buffer == b"1234"


def test_bugs_reach_who_waits() -> None:
    reads = RacedReads([ReadRequest("p", 0, memoryview(b""))], look_after=lambda _: None)

    def broken(_: Race) -> None:
        raise ZeroDivisionError

    reads.drain(broken)
    with pytest.raises(ZeroDivisionError):
        reads.wait()

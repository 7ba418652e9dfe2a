"""The jail itself: each limit holds, and each kind of escape is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.jail import Escaped, Jail


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jail]:
    with Jail(tmp_path_factory.mktemp("strict"), cpu_seconds=1) as jail:
        yield jail


def test_what_does_nothing_wrong_passes(strict: Jail) -> None:
    assert strict.examine(operation="misbehave", how="") == {"refused": None, "complaints": []}


def test_a_typed_error_is_a_refusal(strict: Jail) -> None:
    answer = strict.examine(operation="misbehave", how="refuse")
    assert answer == {"refused": "DataError: refused", "complaints": []}


def test_another_error_is_a_complaint(strict: Jail) -> None:
    (complaint,) = strict.examine(operation="misbehave", how="raise")["complaints"]
    assert "KeyError" in complaint


def test_memory_is_limited(strict: Jail) -> None:
    (complaint,) = strict.examine(operation="misbehave", how="allocate")["complaints"]
    assert "MemoryError" in complaint


def test_writing_elsewhere_is_seen(strict: Jail, tmp_path: Path) -> None:
    answer = strict.examine(operation="misbehave", how="write", where=str(tmp_path / "x"))
    assert answer["complaints"] == [f"open of {tmp_path / 'x'}"]


@pytest.mark.parametrize(("how", "signal"), [("die", "SIGABRT"), ("loop", "SIGXCPU")])
def test_death_is_a_failure_and_the_next_example_is_answered(
    strict: Jail, how: str, signal: str
) -> None:
    with pytest.raises(Escaped, match=signal):
        strict.examine(operation="misbehave", how=how)
    assert strict.examine(operation="misbehave", how="")["complaints"] == []

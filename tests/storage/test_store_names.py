"""The names that a store finds for a pattern: those that `glob.glob` finds among files."""

from __future__ import annotations

import pytest
from fakes.places import Place, memory_place, posix_place
from hypothesis import given
from hypothesis import strategies as st

from iopipe.storage import PosixStore


def test_glob_finds_objects_in_order(place: Place) -> None:
    for name in ("b-2.tar", "b-1.tar", "sub/b-3.tar", "b-1.idx", ".b-0.tar"):
        place.put(name, b"")
    names = [path.removeprefix(place.root) for path in place.store.glob(place.root + "b-?.tar")]
    assert names == ["b-1.tar", "b-2.tar"]
    assert place.store.glob(place.root + "c*") == []
    assert place.store.glob(place.root + "sub") == []


FOLDERS = st.lists(st.sampled_from(["d", "e", ".h"]), max_size=3)
NAMES = st.builds(
    lambda folders, file: "/".join([*folders, file]),
    FOLDERS,
    st.sampled_from(["x.tar", "y", ".z", "[q]"]),
)
PATTERNS = st.lists(
    st.sampled_from(["*", "**", "d", "?", "*.tar", "[dx]*", ".*", "y", "[!d]*", ".z", "[[]q]"]),
    min_size=1,
    max_size=4,
).map("/".join)


@given(names=st.lists(NAMES, max_size=8), patterns=st.lists(PATTERNS, min_size=1, max_size=8))
def test_glob_of_both_stores_agrees(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], patterns: list[str]
) -> None:
    places = posix_place(tmp_path_factory.mktemp("glob"), PosixStore()), memory_place()
    for place in places:
        for name in names:
            place.put(name, b"")
    for pattern in patterns:
        found = [
            [path.removeprefix(place.root) for path in place.store.glob(place.root + pattern)]
            for place in places
        ]
        assert found[0] == found[1]

"""Damage: what disks, networks and attackers do to bytes.

Stands under all fuzz tests.  Invariant: what comes out depends on the draws alone, so that
hypothesis can shrink it and show it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

_MAX_CHANGES = 3
_MAX_PIECE_BYTES = 700
_WIDTHS = (1, 2, 4, 8)
_SMALL = st.binary(min_size=1, max_size=24)


class File(bytes):
    """Bytes too many to print; with `pytest -x` those of a failure stay in the jail's folder."""

    def __repr__(self) -> str:
        return f"<file of {len(self)} bytes>"


def mutate(data: bytes, draw: st.DrawFn, *, places: Sequence[int] = ()) -> bytes:
    """`data` after one to three changes; `places` are offsets worth a try, besides the ends
    and every other byte."""
    for _ in range(draw(st.integers(1, _MAX_CHANGES))):
        change = draw(st.sampled_from(_CHANGES))
        data = change(data, _place(data, draw, places), draw)
    return data


@st.composite
def files(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> File:
    """`contents`, each as a file; not by `map`, whose arguments a report would print."""
    return File(draw(contents))


@st.composite
def mutated(draw: st.DrawFn, data: bytes, places: Sequence[int] = ()) -> bytes:
    return mutate(data, draw, places=places)


def _place(data: bytes, draw: st.DrawFn, places: Sequence[int]) -> int:
    near_ends = st.integers(0, min(64, len(data))) | st.integers(max(0, len(data) - 64), len(data))
    anywhere = st.integers(0, len(data)) | near_ends
    if places:
        near = st.builds(lambda place, by: place + by, st.sampled_from(places), st.integers(0, 40))
        anywhere |= near
    return min(draw(anywhere), len(data))


def _flip(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    if place >= len(data):
        return data
    bit = 1 << draw(st.integers(0, 7))
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def _overwrite(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    piece = draw(_SMALL)
    return data[:place] + piece + data[place + len(piece) :]


def _fill(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    length = draw(st.integers(1, _MAX_PIECE_BYTES))
    value = draw(st.sampled_from([b"\0", b"\xff", b"7", b" "]))
    return data[:place] + value * min(length, len(data) - place) + data[place + length :]


def _truncate(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    return data[:place]


def _extend(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    return data + draw(_SMALL) * draw(st.sampled_from([1, 16, 512]))


def _delete(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    return data[:place] + data[place + draw(st.integers(1, _MAX_PIECE_BYTES)) :]


def _duplicate(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    """A piece comes again somewhere else, in front of what is there or over it."""
    piece = data[place : place + draw(st.sampled_from([8, 64, 512, 1024, 4096]))]
    target = draw(st.integers(0, len(data)))
    skipped = len(piece) if draw(st.booleans()) else 0
    return data[:target] + piece + data[target + skipped :]


def _extreme(data: bytes, place: int, draw: st.DrawFn) -> bytes:
    """An integer becomes one that a size, a count or an offset should not be."""
    width = draw(st.sampled_from(_WIDTHS))
    if draw(st.booleans()):
        place -= place % width
    order = draw(st.sampled_from(["little", "big"]))
    value = draw(st.sampled_from(_extremes(8 * width, len(data))))
    piece = (value % (1 << 8 * width)).to_bytes(width, order)
    return data[:place] + piece + data[place + width :]


def _extremes(bits: int, num_bytes: int) -> list[int]:
    top = 1 << (bits - 1)
    near_end = [num_bytes - 1, num_bytes, num_bytes + 1, num_bytes // 2]
    return [0, 1, 2, -1, -2, top, top - 1, top + 1, top >> 1, top >> 2, top >> 3, *near_end]


_CHANGES: list[Callable[[bytes, int, st.DrawFn], bytes]] = [
    _flip,
    _overwrite,
    _fill,
    _truncate,
    _extend,
    _delete,
    _duplicate,
    _extreme,
    _extreme,
]

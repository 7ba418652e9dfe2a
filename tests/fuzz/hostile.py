"""Files that are well formed and lie: archives, JSON and indexes with hostile values.

Stands beside `mutate`, which seldom gets past a checksum or a parser.  Invariant: the
framing is right, so that what is wrong is what the reader has to notice.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pyarrow as pa
from fuzz.mutate import mutate
from fuzz.reseal import reseal_tar
from hypothesis import strategies as st

from iopipe.readers.sidecar import seal, unseal

_BLOCK_BYTES = 512

HOSTILE_NAMES = (
    "../up.txt",
    "/absolute.txt",
    "a/../../up.txt",
    "..",
    ".",
    "",
    ".txt",
    "no-extension",
    "key.with\nnewline",
    "key0.txt",
    "KEY0.TXT",
    "\udcff\udc80.txt",
    "__meta__/x.txt",
    "täxt.täxt",
    "a" * 99 + ".b",
    "shard-000000.tar",
    "C:\\x.txt",
    "nul\0.txt",
    "memory://data/x",
)
HOSTILE_NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**62, 2**63 - 1, -(2**63), 2**64)


# ---- archives ------------------------------------------------------------------------


@st.composite
def hostile_tars(draw: st.DrawFn, data: bytes) -> bytes:
    """Hostile members before, between or behind those of the archive `data`."""
    parts = [draw(_MEMBERS) for _ in range(draw(st.integers(1, 4)))]
    place = draw(st.integers(0, len(data) // _BLOCK_BYTES)) * _BLOCK_BYTES
    archive = data[:place] + b"".join(parts) + data[place:]
    if draw(st.booleans()):
        archive = reseal_tar(mutate(archive, draw))
    return archive


@st.composite
def _members(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(HOSTILE_NAMES) | st.text(max_size=12))
    raw = name.encode("utf-8", "surrogateescape" if name.isprintable() else "surrogatepass")
    kind = draw(
        st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"7", b"g", b"K", b"S", b"x", b"L"])
    )
    content = draw(_records() | st.binary(max_size=40))
    size = draw(st.one_of(st.just(b"%011o\0" % len(content)), _SIZE_FIELDS))
    header = bytearray(_BLOCK_BYTES)
    header[: len(raw[:100])] = raw[:100]
    header[124 : 124 + len(size)] = size
    header[156:157] = kind
    header[257:265] = draw(st.sampled_from([b"ustar\00000", b"ustar  \0", bytes(8)]))
    if draw(st.booleans()):
        header[345:350] = b"../.."
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % _BLOCK_BYTES)


_SIZE_FIELDS = st.sampled_from(
    [
        b"77777777777\0",
        b"777777777777",
        b"\x80" + bytes(3) + b"\x7f" * 8,
        b"\xff" * 12,
        b"\x80" + bytes(11),
        b"-0000000001\0",
        b"+0000000001\0",
        b"0b000000001\0",
        b"1_000\0",
        b" 12 \0",
        b"\0" * 12,
        b"99999999999\0",
    ]
)


@st.composite
def _records(draw: st.DrawFn) -> bytes:
    """Of a pax header, with lengths that may lie."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([b"path", b"size", b"mtime", b"GNU.sparse.size", b"linkpath"]))
        names = [name.encode("utf-8", "surrogateescape") for name in HOSTILE_NAMES]
        numbers = [str(number).encode() for number in HOSTILE_NUMBERS]
        value = draw(st.sampled_from([*names, *numbers, "²".encode(), b"1_0", b" 7", b"9" * 5000]))
        rest = b" " + key + b"=" + value + b"\n"
        true = next(n for n in range(len(rest), len(rest) + 9) if len(str(n)) + len(rest) == n)
        length = draw(st.sampled_from([true, true, 0, 1, -1, true + 1, 10**30]))
        parts.append(str(length).encode() + rest)
    return b"".join(parts)


_MEMBERS = _members()


# ---- JSON ----------------------------------------------------------------------------

_VALUES = st.one_of(
    st.sampled_from(HOSTILE_NAMES),
    st.sampled_from(HOSTILE_NUMBERS),
    st.sampled_from([None, True, 1.5, float("nan"), float("inf"), "\ud800", "x" * 5000]),
    st.sampled_from([[], {}, [[]], {"a": {}}, ["x"] * 100]),
)


@st.composite
def hostile_json(draw: st.DrawFn, data: bytes) -> bytes:
    """The document with one to three values replaced, removed or repeated."""
    document = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(document)) or [(None, None)]))
        change = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
        if holder is None:
            document = deepcopy(draw(_VALUES))
        elif change == "replace":
            holder[key] = deepcopy(draw(_VALUES))
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(holder[key])
    return json.dumps(document).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value in a document."""
    if isinstance(document, dict):
        keys: list[Any] = list(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    else:
        return []
    return [(document, key) for key in keys] + [
        place for key in keys for place in _places(document[key])
    ]


# ---- indexes -------------------------------------------------------------------------


@st.composite
def hostile_indexes(draw: st.DrawFn, data: bytes) -> bytes:
    """A sidecar whose seal is right and whose table or header is not."""
    table, header = unseal(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, table.num_columns - 1))
        values = table.column(place).to_pylist()
        if values:
            values[draw(st.integers(0, len(values) - 1))] = draw(_cells(table.field(place).type))
        column = pa.array(values, table.field(place).type)
        table = table.set_column(place, table.field(place).name, column)
    if draw(st.booleans()):
        header = json.loads(draw(hostile_json(json.dumps(header).encode())))
    if draw(st.booleans()):
        table = table.drop_columns([draw(st.sampled_from(table.column_names))])
    return seal(table, header)


def _cells(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(kind):
        numbers = [n for n in HOSTILE_NUMBERS if -(2**31) < n < 2**31 or kind == pa.int64()]
        fitting = [n for n in numbers if -(2**63) <= n < 2**63]
        return st.sampled_from(fitting) | st.integers(0, 4096)
    if pa.types.is_string(kind):
        return st.sampled_from(["", "../up", "key0", "key1", "/x", "nul\0"])
    return st.none()

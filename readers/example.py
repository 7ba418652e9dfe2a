"""tf.train.Example, read and written without TensorFlow or protobuf.

Stands under the TFRecord format.  Invariant: bytes of an example are views of its record;
whatever is not the message that the schema describes is a `ValueError`.

Source: Protocol Buffers, encoding (wire types 0, 1, 2 and 5, packed fields), and
tensorflow/core/example/{example,feature}.proto: Example.features = 1, Features.feature = 1 (a
map of key = 1 and value = 2), Feature.bytes_list = 1, float_list = 2, int64_list = 3, and
value = 1 in each of the lists.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Value: TypeAlias = "memoryview | list[memoryview] | npt.NDArray[Any]"
"""A bytes feature of one value is that value, of another number a list; floats are float32
[k], integers int64 [k]."""

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_LISTS = {1: "bytes", 2: "float", 3: "int64"}
_MAX_VARINT_BYTES = 10


def parse_example(record: memoryview) -> dict[str, Value]:
    """The features of a serialised Example, by name, in their order."""
    features: dict[str, Value] = {}
    for number, message in _messages(record):
        if number != 1:
            continue
        for entry_number, entry in _messages(message):
            if entry_number == 1:
                name, value = _feature(entry)
                features[name] = value
    return features


def _feature(entry: memoryview) -> tuple[str, Value]:
    name, feature = "", memoryview(b"")
    for number, content in _messages(entry):
        if number == 1:
            name = str(content, "utf-8")
        elif number == 2:
            feature = content
    for number, content in _messages(feature):
        if number in _LISTS:
            return name, _values(_LISTS[number], content)
    return name, []


def _values(kind: str, content: memoryview) -> Value:
    if kind == "bytes":
        found = [value for number, value in _messages(content) if number == 1]
        return found[0] if len(found) == 1 else found
    parts: list[npt.NDArray[Any]] = []
    for number, wire, value in _fields(content):
        if number == 1:
            parts.append(_floats(wire, value) if kind == "float" else _integers(wire, value))
    dtype = np.float32 if kind == "float" else np.int64
    return np.concatenate([np.empty(0, dtype), *parts]) if len(parts) != 1 else parts[0]


def _floats(wire: int, value: memoryview) -> npt.NDArray[Any]:
    if wire not in (_BYTES, _FIXED_32) or len(value) % 4:
        raise ValueError("a list of floats has a value that is none")
    return np.frombuffer(value, "<f4")


def _integers(wire: int, value: memoryview) -> npt.NDArray[Any]:
    """Varints, seven bits a byte, the least significant first."""
    if wire not in (_BYTES, _VARINT):
        raise ValueError("a list of integers has a value that is none")
    content = np.frombuffer(value, np.uint8)
    (ends,) = np.nonzero(content < 0x80)
    if not len(content):
        return np.empty(0, np.int64)
    if not len(ends) or ends[-1] != len(content) - 1:
        raise ValueError("a list of integers is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > _MAX_VARINT_BYTES:
        raise ValueError("an integer has more than 64 bits")
    shifts = (np.arange(len(content)) - np.repeat(starts, sizes)) * 7
    parts = (content & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(parts, starts).view(np.int64)


def _messages(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message."""
    return ((number, value) for number, wire, value in _fields(content) if wire == _BYTES)


def _fields(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, raw value) of each field."""
    place, end = 0, len(content)
    while place < end:
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        first = place
        if wire == _VARINT:
            _, place = _varint(content, place)
        elif wire == _BYTES:
            size, first = _varint(content, place)
            place = first + size
        elif wire in (_FIXED_64, _FIXED_32):
            place += 8 if wire == _FIXED_64 else 4
        else:
            raise ValueError(f"wire type {wire} is not used by this message")
        if place > end:
            raise ValueError("a field runs past the end of its message")
        yield number, wire, content[first:place]


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if place + count >= len(content):
            raise ValueError("a message is cut off")
        byte = content[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("an integer has more than 64 bits")


# ---- writing -------------------------------------------------------------------------


def pack_example(fields: Mapping[str, Any]) -> bytes:
    """Serialise fields as an Example, by name in sorted order; a `TypeError` for a value that
    is neither bytes, text, numbers nor a list of these."""
    entries = (
        _delimited(1, _delimited(1, name.encode()) + _delimited(2, _packed(fields[name])))
        for name in sorted(fields)
    )
    return _delimited(1, b"".join(entries))


def _packed(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview | str):
        return _delimited(1, _delimited(1, _raw(value)))
    if isinstance(value, list | tuple) and any(
        isinstance(item, bytes | bytearray | memoryview | str) for item in value
    ):
        return _delimited(1, b"".join(_delimited(1, _raw(item)) for item in value))
    array = np.atleast_1d(np.asarray(value))
    if array.ndim == 1 and array.dtype.kind in "iub":
        varints = b"".join(_packed_varint(int(number) % (1 << 64)) for number in array)
        return _delimited(3, _delimited(1, varints) if len(array) else b"")
    if array.ndim == 1 and array.dtype.kind == "f":
        floats = array.astype("<f4").tobytes()
        return _delimited(2, _delimited(1, floats) if len(array) else b"")
    raise TypeError(f"a {type(value).__name__} has no place in a tf.train.Example")


def _raw(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _delimited(number: int, content: bytes) -> bytes:
    return _packed_varint(number << 3 | _BYTES) + _packed_varint(len(content)) + content


def _packed_varint(value: int) -> bytes:
    if value < 0x80:
        return struct.pack("B", value)
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)

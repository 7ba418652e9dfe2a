"""Walks the headers of a tar archive over a store, and writes archives.

Stands under the WebDataset format.  Invariant: a member is reported only when all of its
bytes lie inside the archive; where the walk cannot go on it ends with a `TarDamage`.

Source: POSIX.1-1988 (ustar), POSIX.1-2001 (pax headers), and GNU tar's long names and
base-256 numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iopipe.protocols import Store

BLOCK_BYTES = 512
_FAR_BYTES = 2048
_NEAR_BYTES = 1 << 18
"""What is read at a header: a few blocks where members are large, else enough for many
members, because a read costs about as much as copying 64 KiB."""
_NEAR_MEMBER_BYTES = 1 << 16
MAX_EXTENSION_BYTES = 1 << 20
_MAX_SIZE_DIGITS = 18
_CHECKSUM = slice(148, 156)
_ZERO_BLOCK = bytes(BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive; `offset` is that of its first byte of data."""

    name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TarDamage:
    """Where and why the walk ended early; `name` is that of a member cut off, if any."""

    reason: str
    offset: int
    name: str | None = None


class _Window:
    """The bytes of the archive around the place of the walk."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._start = 0
        self._bytes = b""
        self.num_bytes = store.size(path)

    def read(self, offset: int, length: int, ahead: int) -> bytes:
        """`length` bytes at `offset`, fewer at the end; reads `ahead` bytes at once."""
        first = offset - self._start
        if first < 0 or first + length > len(self._bytes):
            buffer = bytearray(max(0, min(max(length, ahead), self.num_bytes - offset)))
            num_read = self._store.read_into(self._path, offset, memoryview(buffer))
            self._start, self._bytes, first = offset, bytes(buffer[:num_read]), 0
        return self._bytes[first : first + length]


def walk(store: Store, path: str, offset: int = 0) -> Iterator[Member | TarDamage]:
    """The regular files of an archive from the header at `offset` on, in order; a
    `TarDamage` can only be the last item.

    Folders, links and devices are passed over, as WebDataset does.
    """
    window = _Window(store, path)
    num_bytes = 0
    extensions: dict[str, str] = {}
    while True:
        ahead = _NEAR_BYTES if num_bytes < _NEAR_MEMBER_BYTES else _FAR_BYTES
        header = window.read(offset, BLOCK_BYTES, ahead)
        if header == _ZERO_BLOCK:
            return
        damage = _header_damage(header, offset)
        if damage is not None:
            yield damage
            return
        kind = header[156:157]
        num_bytes = _size(header, extensions if kind in b"0\0" else {})
        data = offset + BLOCK_BYTES
        name = extensions.get("path") or _name(header)
        if num_bytes < 0 or data + num_bytes > window.num_bytes:
            yield TarDamage(
                f"member {name!r} of {num_bytes} bytes runs past the end of the archive "
                f"({window.num_bytes} bytes)",
                offset,
                name,
            )
            return
        offset = data + -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
        if kind in b"xLg":
            if num_bytes > MAX_EXTENSION_BYTES:
                yield TarDamage(f"an extended header of {num_bytes} bytes is not sane", data)
                return
            content = window.read(data, num_bytes, ahead)
            try:
                extend(extensions, kind, content)
            except ValueError:
                yield TarDamage("an extended header is malformed", data)
                return
            continue
        if kind in b"0\0":
            yield Member(name, data, num_bytes)
        extensions = {}


def _header_damage(header: bytes, offset: int) -> TarDamage | None:
    if not header:
        return TarDamage("the archive ends without its end-of-archive blocks", offset)
    if len(header) < BLOCK_BYTES:
        return TarDamage("the archive ends inside a header", offset)
    stored = header[_CHECKSUM].split(b"\0", 1)[0].strip()
    actual = sum(header) - sum(header[_CHECKSUM]) + 8 * 0x20
    if not stored or not _is_octal(stored) or int(stored, 8) != actual:
        return TarDamage("the checksum of a header is wrong", offset)
    return None


def is_header(block: bytes) -> bool:
    """Whether an archive may start with these bytes: a header with a right checksum, or the
    end of an empty archive."""
    return block == _ZERO_BLOCK or _header_damage(block, 0) is None


def _is_octal(digits: bytes) -> bool:
    return not digits.strip(b"01234567")


def _size(header: bytes, extensions: dict[str, str]) -> int:
    """Bytes of data; -1 where the field is no number."""
    if "size" in extensions:
        digits = extensions["size"]
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MAX_SIZE_DIGITS
        return int(digits) if is_number else -1
    field = header[124:136]
    if field[0] & 0x80:  # GNU's base-256 for members of 8 GiB and more
        return int.from_bytes(field, "big", signed=True) & ((1 << 95) - 1)
    digits_octal = field.split(b"\0", 1)[0].strip()
    if not _is_octal(digits_octal):
        return -1
    return int(digits_octal or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return _text(name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def extend(extensions: dict[str, str], kind: bytes, content: bytes) -> None:
    """Take over a GNU long name, or the records of a pax header: b'<length> key=value\\n'.

    Global pax records ('g') do not name single members; they are passed over.
    """
    if kind == b"L":
        extensions["path"] = _text(content.split(b"\0", 1)[0])
        return
    while kind == b"x" and content:
        digits, _, _ = content.partition(b" ")
        length = int(digits)
        if not len(digits) < length <= len(content):
            raise ValueError(length)
        key, _, value = content[len(digits) + 1 : length - 1].partition(b"=")
        extensions[_text(key)] = _text(value)
        content = content[length:]


# ---- writing -------------------------------------------------------------------------


def header_blocks(name: str, num_bytes: int) -> bytes:
    """The header of a regular file: ustar, behind a pax header where the name needs one.

    Owner, mode and time are constants, so the same members make the same bytes.
    """
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= 100 and raw.isascii() and num_bytes < 8**11:
        return _ustar(raw, num_bytes, b"0")
    records = _pax_record(b"path", raw)
    if num_bytes >= 8**11:
        records += _pax_record(b"size", str(num_bytes).encode())
    extended = _ustar(b"././@PaxHeader", len(records), b"x") + records + padding(len(records))
    return extended + _ustar(raw[:100], min(num_bytes, 8**11 - 1), b"0")


def padding(num_bytes: int) -> bytes:
    """Zeros up to the next block."""
    return bytes(-num_bytes % BLOCK_BYTES)


END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)


_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_REST = (bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2).ljust(355, b"\0")
_CONSTANT_SUM = sum(_OWNER + _TIME + b" " * 8 + _REST)
"""The checksum's own field counts as spaces."""


def _ustar(name: bytes, num_bytes: int, kind: bytes) -> bytes:
    size = b"%011o\0" % num_bytes
    checksum = b"%06o\0 " % (_CONSTANT_SUM + sum(name) + sum(size) + kind[0])
    return b"".join((name.ljust(100, b"\0"), _OWNER, size, _TIME, checksum, kind, _REST))


def _pax_record(key: bytes, value: bytes) -> bytes:
    """The length counts its own digits, so it is grown until it fits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest

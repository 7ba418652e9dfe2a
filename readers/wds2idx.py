"""The index format of DALI, so that either side can use what the other has built.

Stands beside `index`.  Source: DALI's tool wds2idx, version v1.2: a line with the version
and the number of samples, then a line a sample with `extension offset size name` for each
of its members; v1.1 has no names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from iopipe.errors import DataError
from iopipe.readers.shard_index import IndexBuilder, ShardIndex
from iopipe.readers.tar import Member

_NUMBER = re.compile("[0-9]{1,18}")
"""Of bytes: more digits would not fit 64 bits."""


def write_wds2idx(index: ShardIndex, path: str | os.PathLike[str]) -> None:
    """Write an index as DALI's `fn.readers.webdataset(index_paths=...)` reads it."""
    lines = [f"v1.2 {len(index)}\n", *_wds2idx_lines(index)]
    Path(path).write_text("".join(lines), "utf-8")


def _wds2idx_lines(index: ShardIndex) -> Iterator[str]:
    for row, key in enumerate(index.keys.to_pylist()):
        if set(" \n") & set(str(key)):
            raise DataError(f"a wds2idx index has no names with spaces, as {key!r} is", key=key)
        parts = [
            f"{name} {offset} {length} {key}.{name}"
            for name, offset, length in zip(
                index.columns, index.offsets[row], index.lengths[row], strict=True
            )
            if length >= 0
        ]
        yield " ".join(parts) + "\n"


def read_wds2idx(path: str | os.PathLike[str]) -> ShardIndex:
    """Read DALI's index, v1.2 or v1.1 (which has no names: keys are the sample numbers)."""
    try:
        return _parsed(Path(path).read_text("utf-8"))
    except DataError as error:
        error.shard = os.fspath(path)
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"the wds2idx index is no UTF-8 text ({error}); make it again", shard=os.fspath(path)
        ) from error


def _parsed(content: str) -> ShardIndex:
    header, *lines = content.removesuffix("\n").split("\n")
    version, _, count = header.partition(" ")
    width = {"v1.2": 4, "v1.1": 3}.get(version)
    if width is None or count != str(len(lines)):
        raise DataError(
            f"{header[:80]!r} is no header of a wds2idx index with {len(lines)} samples; make it "
            "again"
        )
    builder = IndexBuilder()
    for number, line in enumerate(lines):
        words = line.split(" ")
        if len(words) % width or not words[0]:
            raise DataError(f"line {number + 2} of the wds2idx index is malformed; make it again")
        for start in range(0, len(words), width):
            name, offset, length, *rest = words[start : start + width]
            key = rest[0][: -len(name) - 1] if rest else str(number)
            if not (_NUMBER.fullmatch(offset) and _NUMBER.fullmatch(length)):
                raise DataError(f"line {number + 2} of the wds2idx index has no numbers")
            builder.add(key, name, Member(f"{key}.{name}", int(offset), int(length)))
    return builder.build()

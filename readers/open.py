"""From what a user types to a source: patterns, folders, manifests, formats.

Stands at the door of the readers.  Invariant: the format is judged by content, and the
shards of one source are all of one format.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence

from iopipe.errors import DataError, NotFoundError, PipelineError
from iopipe.protocols import ErrorPolicy, Source, Store
from iopipe.readers import manifest
from iopipe.readers.arrow import ArrowSource
from iopipe.readers.tar import BLOCK_BYTES, is_header
from iopipe.readers.webdataset import WebDatasetSource
from iopipe.storage import open_store

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SHARD_PATTERNS = ("*.tar", "*.arrow")
_MAX_MANIFEST_BYTES = 1 << 28
_MAX_BRACE_PATHS = 10_000_000

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_source(
    paths: Paths,
    *,
    columns: Sequence[str] | None = None,
    store: Store | None = None,
    on_error: ErrorPolicy = "raise",
) -> Source:
    """Open a dataset: WebDataset tar shards or Arrow IPC files.

    `paths` is a shard, a folder of shards, a manifest, a pattern with `*`, `?` or braces
    (`train-{000..127}.tar`, `{train,more}.tar`), or a list of these.  `store` reads them;
    by default the backend that their URL names.  `columns` are the fields to read.
    """
    wanted = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    names = [os.fspath(path) for path in wanted]
    if not names:
        raise PipelineError("no paths were given; name at least one shard, folder or pattern")
    opened = store or open_store(names[0])
    try:
        shards = [shard for name in names for shard in _shards(name, opened)]
        return _open(shards, opened, columns, on_error)
    finally:
        if store is None:
            opened.close()


def _open(
    shards: list[str], store: Store, columns: Sequence[str] | None, on_error: ErrorPolicy
) -> Source:
    formats = {_format(shard, store): shard for shard in shards}
    if len(formats) > 1:
        raise PipelineError(
            f"the shards are of several formats: {formats}; open each format on its own"
        )
    if "arrow" in formats:
        return ArrowSource(shards, store, columns=columns)
    return WebDatasetSource(shards, store, columns=columns, on_error=on_error)


def _format(shard: str, store: Store) -> str:
    """By content first; an archive that is damaged at its start is known by its name."""
    head = memoryview(bytearray(BLOCK_BYTES))
    content = bytes(head[: store.read_into(shard, 0, head)])
    if content.startswith(b"ARROW1"):
        return "arrow"
    if is_header(content) or shard.endswith(".tar"):
        return "webdataset"
    if shard.endswith(".arrow"):
        return "arrow"
    raise DataError(
        "it is neither a tar archive nor an Arrow IPC file; convert it to one of these",
        shard=shard,
    )


def _shards(name: str, store: Store) -> list[str]:
    found = [shard for pattern in _expanded(name) for shard in _matching(pattern, store)]
    if not found:
        raise NotFoundError(2, "no shard matches; check the path or the pattern", name)
    return found


def _matching(pattern: str, store: Store) -> list[str]:
    if any(character in pattern for character in "*?["):
        return store.glob(pattern)
    if pattern.endswith("/" + manifest.NAME) or pattern == manifest.NAME:
        return _listed(pattern, store)
    local = store.local_path(pattern)
    if local is not None and os.path.isdir(local):
        return _in_folder(pattern.rstrip("/"), store)
    store.size(pattern)  # a missing shard is an error now, by name
    return [pattern]


def _in_folder(folder: str, store: Store) -> list[str]:
    listed = store.glob(f"{_escaped(folder)}/{manifest.NAME}")
    if listed:
        return _listed(f"{folder}/{manifest.NAME}", store)
    found = [store.glob(f"{_escaped(folder)}/{pattern}") for pattern in _SHARD_PATTERNS]
    return list(itertools.chain(*found))


def _escaped(folder: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", folder)


def _listed(path: str, store: Store) -> list[str]:
    num_bytes = store.size(path)
    if num_bytes > _MAX_MANIFEST_BYTES:
        raise DataError(f"a manifest of {num_bytes} bytes is not sane", shard=path)
    content = bytearray(num_bytes)
    store.read_into(path, 0, memoryview(content))
    folder = path[: -len(manifest.NAME)]
    return [folder + shard.path for shard in manifest.parse_manifest(bytes(content), path).shards]


def _expanded(pattern: str) -> Iterator[str]:
    """Brace expansion as shells do it: `{a,b}` and `{000..127}`, zero-padded as written."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in _choices(match[1], pattern):
        yield from _expanded(pattern[: match.start()] + choice + pattern[match.end() :])


def _choices(body: str, pattern: str) -> Iterator[str]:
    span = _RANGE.fullmatch(body)
    if span is None:
        yield from body.split(",")
        return
    first, last = int(span[1]), int(span[2])
    if not 0 <= last - first < _MAX_BRACE_PATHS:
        raise PipelineError(f"{pattern!r} counts from {first} to {last}; give first <= last")
    width = max(len(span[1]), len(span[2])) if span[1][0] == "0" or span[2][0] == "0" else 0
    for number in range(first, last + 1):
        yield f"{number:0{width}d}" if width else str(number)

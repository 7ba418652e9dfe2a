"""From what a user types to a source: patterns, folders, manifests, formats.

Stands at the door of the readers.  Invariant: the format is judged by content, and the
shards of one source are all of one format.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence

from iopipe.errors import DataError, NotFoundError, PipelineError
from iopipe.protocols import ErrorPolicy, Source, Store
from iopipe.readers import manifest
from iopipe.readers.formats import Format, OpenOptions, all_formats, find_format
from iopipe.readers.verify import Verify, check_shards, verified
from iopipe.storage import open_store

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_HEAD_BYTES = 512
_MAX_BRACE_PATHS = 10_000_000

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_source(
    paths: Paths,
    *,
    columns: Sequence[str] | None = None,
    store: Store | None = None,
    on_error: ErrorPolicy = "raise",
    verify: Verify = "off",
    format: str | None = None,
    options: OpenOptions | None = None,
) -> Source:
    """Open a dataset of any format that iopipe knows.

    `paths` is a shard, a folder of shards, a manifest, a pattern with `*`, `?` or braces
    (`train-{000..127}.tar`, `{train,more}.tar`), or a list of these.  `store` reads them;
    by default the backend that their URL names.  `columns` are the fields to read.
    `verify='shard'` compares every shard with its manifest once, now; `verify='sample'`
    every sample with its checksum whenever it is read.  The format is judged by content
    unless `format` names it; `options` holds what single formats need, and what `columns` and
    `on_error` are where they are not given.
    """
    chosen = options or OpenOptions()
    if columns is not None:
        chosen = dataclasses.replace(chosen, columns=tuple(columns))
    if on_error != "raise":
        chosen = dataclasses.replace(chosen, on_error=on_error)
    if chosen.columns is not None and verify == "sample":
        raise PipelineError(
            "a sample's checksum is one of all fields; leave out columns=, or use verify='shard'"
        )
    opened = store or open_store(first_path(paths))
    try:
        shards = find_shards(paths, opened)
        if verify == "shard":
            check_shards(shards, opened)
        found = find_format(format) if format else format_of(shards, opened)
        source = found.open(shards, opened, chosen)
        return verified(source, opened) if verify == "sample" else source
    finally:
        if store is None:
            opened.close()


def find_shards(paths: Paths, store: Store) -> list[str]:
    """The shards that `paths` names, as `open_source` understands it, in order."""
    return [shard for name in _names(paths) for shard in _shards(name, store)]


def first_path(paths: Paths) -> str:
    """What decides which store serves them."""
    return _names(paths)[0]


def _names(paths: Paths) -> list[str]:
    wanted = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not wanted:
        raise PipelineError("no paths were given; name at least one shard, folder or pattern")
    return [os.fspath(path) for path in wanted]


def format_of(shards: Sequence[str], store: Store) -> Format:
    """The one format of all these shards."""
    formats = {_format(shard, store).name: shard for shard in shards}
    if len(formats) > 1:
        raise PipelineError(
            f"the shards are of several formats: {formats}; open each format on its own"
        )
    return find_format(next(iter(formats)))


def _format(shard: str, store: Store) -> Format:
    """By content first; a shard that is damaged at its start is known by its name."""
    local = store.local_path(shard)
    head = memoryview(bytearray(_HEAD_BYTES))
    if local is not None and os.path.isdir(local):
        content = b""
    else:
        content = bytes(head[: store.read_into(shard, 0, head)])
    known = all_formats()
    for found in known:
        if found.is_content(content, shard):
            return found
    for found in known:
        if shard.endswith(found.suffixes):
            return found
    raise DataError(
        f"its content is of no format that is known ({', '.join(f.name for f in known)}); "
        "name its format or convert it",
        shard=shard,
    )


def _shards(name: str, store: Store) -> list[str]:
    found = [shard for pattern in _expanded(name) for shard in _matching(pattern, store)]
    if not found:
        raise NotFoundError(2, "no shard matches; check the path or the pattern", name)
    return found


def _matching(pattern: str, store: Store) -> list[str]:
    local = store.local_path(pattern)
    is_there = local is not None and os.path.exists(local)  # a name may have brackets of its own
    if not is_there and any(character in pattern for character in "*?["):
        return store.glob(pattern)
    if pattern.endswith("/" + manifest.NAME) or pattern == manifest.NAME:
        return _listed(pattern, store)
    if pattern.endswith("/") or (local is not None and os.path.isdir(local)):
        return _in_folder(pattern.rstrip("/"), store)
    store.size(pattern)  # a missing shard is an error now, by name
    return [pattern]


def _in_folder(folder: str, store: Store) -> list[str]:
    listed = store.glob(f"{_escaped(folder)}/{manifest.NAME}")
    if listed:
        return _listed(f"{folder}/{manifest.NAME}", store)
    found = store.glob(f"{_escaped(folder)}/*")
    suffixes = [suffix for known in all_formats() for suffix in known.suffixes]
    likely = [path for path in found if path.endswith(tuple(suffixes))]
    shards = [shard for suffix in suffixes for shard in likely if shard.endswith(suffix)]
    local = store.local_path(folder) or folder
    is_dataset = not shards and any(known.is_content(b"", local) for known in all_formats())
    return [local] if is_dataset else shards


def _escaped(folder: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", folder)


def _listed(path: str, store: Store) -> list[str]:
    folder = path[: -len(manifest.NAME)]
    return [folder + shard.path for shard in manifest.read_manifest(store, path).shards]


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
        raise PipelineError(
            f"{pattern!r} counts from {first} to {last}; give first <= last, and at most "
            f"{_MAX_BRACE_PATHS:,} shards"
        )
    width = max(len(span[1]), len(span[2])) if span[1][0] == "0" or span[2][0] == "0" else 0
    for number in range(first, last + 1):
        yield f"{number:0{width}d}" if width else str(number)

"""Looks at a whole dataset: is it what was written, and what is in it.

Stands on top of the readers; the commands `verify` and `inspect` print what it returns.
Invariant: nothing is called intact that was not compared with a checksum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from iopipe.errors import DataError, IopipeError, NotFoundError, PipelineError
from iopipe.protocols import Source, Store
from iopipe.readers.checksums import difference, load_checksums, rows_of
from iopipe.readers.manifest import ShardEntry
from iopipe.readers.open import Paths, find_shards, first_path, format_of, open_source
from iopipe.readers.verify import noted_samples, noted_shards, shard_damage
from iopipe.storage import open_store

_THREADS = min(16, 2 * (os.cpu_count() or 1))
_CHUNK_SAMPLES = 64
_MAX_TRIED = 64
"""Of the first samples, where they are damaged."""
_REASONS = {
    "key": "its key is not the one that was written",
    "bytes": "its bytes are not those that were written",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared, and what differed."""

    num_shards: int
    num_samples: int
    """Samples that were compared, those of intact shards by the shard's checksum."""
    num_bytes: int
    damage: tuple[DataError, ...]
    """One a damaged or missing sample, with shard, offset and key as far as they are known;
    in the order of the shards."""

    @property
    def is_intact(self) -> bool:
        return not self.damage


@dataclass(frozen=True, slots=True)
class _Shard:
    num_samples: int
    num_bytes: int
    damage: list[DataError]


def verify_dataset(
    paths: Paths,
    *,
    store: Store | None = None,
    on_start: Callable[[int], None] = lambda num_bytes: None,
    on_shard: Callable[[int], None] = lambda num_bytes: None,
) -> Verification:
    """Compare every shard of a dataset with its manifest, and the samples of those that
    differ one by one with their checksums.

    Shards are read in parallel; `on_start` is called with the bytes of all shards, then
    `on_shard` with those of each that is done.  Shards that have neither a manifest nor
    checksums of their samples are reported as damage: nothing says that they are intact.
    """
    opened = store or open_store(first_path(paths))
    try:
        shards = find_shards(paths, opened)
        entries = _noted(shards, opened)
        on_start(sum(_size(shard, opened) for shard in shards))
        results = _verify_shards(shards, entries, opened, on_shard)
    finally:
        if store is None:
            opened.close()
    return Verification(
        num_shards=len(shards),
        num_samples=sum(result.num_samples for result in results),
        num_bytes=sum(result.num_bytes for result in results),
        damage=tuple(damage for result in results for damage in result.damage),
    )


def _verify_shards(
    shards: Sequence[str],
    entries: Mapping[str, ShardEntry],
    store: Store,
    on_shard: Callable[[int], None],
) -> list[_Shard]:
    pool = ThreadPoolExecutor(_THREADS)
    try:
        futures = {
            pool.submit(_verify_shard, shard, entries.get(shard), store): number
            for number, shard in enumerate(shards)
        }
        found: dict[int, _Shard] = {}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            on_shard(found[futures[future]].num_bytes)
    finally:  # of an error or of Ctrl-C, which need not wait for the shards that are left
        pool.shutdown(cancel_futures=True)
    return [found[number] for number in range(len(shards))]


def _size(shard: str, store: Store) -> int:
    """0 of a shard that is missing."""
    try:
        return store.size(shard)
    except NotFoundError:
        return 0


def _noted(shards: Sequence[str], store: Store) -> dict[str, ShardEntry]:
    try:
        return noted_shards(shards, store)
    except PipelineError:  # no manifest: then each shard must have checksums of its samples
        return {}


def _verify_shard(shard: str, entry: ShardEntry | None, store: Store) -> _Shard:
    try:
        num_bytes = store.size(shard)
    except NotFoundError:
        return _Shard(0, 0, [DataError("it is missing; copy it again", shard=shard)])
    if entry is not None and entry.checksum and shard_damage(shard, entry, store) is None:
        return _Shard(entry.num_samples, num_bytes, [])
    try:
        noted = load_checksums(store, shard)
        source = open_source(shard, store=store, on_error="skip")
        expected = noted_samples(source, [noted], store)
    except DataError as error:
        return _Shard(0, num_bytes, [error])
    damage = [*source.faults, *_damaged_samples(source, expected, store)]
    num_missing = noted.shape[1] - len(source)
    if num_missing > 0:
        reason = f"{num_missing} of the {noted.shape[1]} samples that were written are missing"
        damage.append(DataError(reason, shard=shard))
    if entry is not None and not damage:
        reason = "its samples are intact, its other bytes are not those that were written"
        damage.append(DataError(reason, shard=shard))
    return _Shard(len(source), num_bytes, damage)


def _damaged_samples(source: Source, noted: Any, store: Store) -> list[DataError]:
    damage = []
    for first in range(0, len(source), _CHUNK_SAMPLES):
        ids = range(first, min(first + _CHUNK_SAMPLES, len(source)))
        try:
            samples = source.samples(ids, store)
        except IopipeError:
            damage += [error for sample in ids if (error := _unreadable(source, sample, store))]
            continue
        keys, checksums = noted[:, ids].tolist()
        for row, fields in enumerate(rows_of(samples)):
            part = difference(keys[row], checksums[row], samples.keys[row], fields)
            if part is not None:
                damage.append(_at(source, ids[row], _REASONS[part]))
    return damage


def _unreadable(source: Source, sample: int, store: Store) -> DataError | None:
    """What is wrong with one sample of a chunk that could not be read."""
    try:
        source.samples([sample], store)
    except IopipeError as error:
        return _at(source, sample, getattr(error, "reason", str(error)))
    return None


def _at(source: Source, sample: int, reason: str) -> DataError:
    place = source.locate(sample)
    return DataError(reason, shard=place.shard, offset=place.offset, key=place.key)


# ---- inspection ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a dataset holds."""

    format: str
    columns: dict[str, str]
    """Arrow types by name."""
    num_samples: int
    shard_bytes: tuple[int, ...]
    """Sizes, in the order of the shards."""
    damage: tuple[DataError, ...]
    """Samples that the index had to leave out, and those that could not be read first."""
    samples: tuple[dict[str, Any], ...]
    """The first ones that can be read."""

    @property
    def num_bytes(self) -> int:
        return sum(self.shard_bytes)

    def histogram(self, num_bins: int = 8) -> list[tuple[int, int, int]]:
        """(smallest, largest, number) of the shards' sizes in bins of one width, in bytes; at
        most as many bins as there are shards."""
        num_bins = min(num_bins, len(self.shard_bytes))
        low, high = min(self.shard_bytes), max(self.shard_bytes)
        width = max(1, -(-(high - low + 1) // num_bins))
        counts = [0] * num_bins
        for size in self.shard_bytes:
            counts[(size - low) // width] += 1
        last = (high - low) // width + 1
        return [
            (low + bin * width, low + (bin + 1) * width - 1, counts[bin]) for bin in range(last)
        ]


def inspect_dataset(
    paths: Paths, *, store: Store | None = None, num_samples: int = 3
) -> Inspection:
    """Open a dataset, leave out what is damaged, and read its first samples."""
    opened = store or open_store(first_path(paths))
    try:
        shards = find_shards(paths, opened)
        source = open_source(shards, store=opened, on_error="skip")
        samples, damage = _first_samples(source, opened, num_samples)
        return Inspection(
            format=format_of(shards, opened).name,
            columns={field.name: str(field.type) for field in source.schema},
            num_samples=len(source),
            shard_bytes=tuple(opened.size(shard) for shard in shards),
            damage=(*source.faults, *damage),
            samples=tuple(samples),
        )
    finally:
        if store is None:
            opened.close()


def _first_samples(
    source: Source, store: Store, num_samples: int
) -> tuple[list[dict[str, Any]], list[DataError]]:
    samples: list[dict[str, Any]] = []
    damage: list[DataError] = []
    for number in range(min(len(source), num_samples + _MAX_TRIED)):
        if len(samples) == num_samples:
            break
        try:
            samples.append(source.samples([number], store).row(0))
        except DataError as error:
            damage.append(_at(source, number, error.reason))
    return samples, damage

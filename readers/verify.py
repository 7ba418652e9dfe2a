"""Compares shards and samples with what their writer noted, when a dataset is opened.

Stands beside the door of the readers.  Invariant: nothing is called intact that was not
compared; a dataset without checksums is an error, not a pass.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from iopipe.errors import DataError, NotFoundError, PipelineError
from iopipe.protocols import Source, Store
from iopipe.readers.checksums import VerifiedSource, key_hash, load_checksums, shard_checksum
from iopipe.readers.keys import keys_of
from iopipe.readers.manifest import NAME, ShardEntry, read_manifest

Verify: TypeAlias = Literal["off", "shard", "sample"]
_THREADS = 4
_OTHER_KEY = 1
"""Exclusive-or of a hash with this is the hash of another key."""


def check_shards(shards: Sequence[str], store: Store) -> None:
    """Read all shards once; a `DataError` names the first that is not as its manifest says."""
    entries = noted_shards(shards, store)
    with ThreadPoolExecutor(_THREADS) as pool:
        for damage in pool.map(lambda shard: shard_damage(shard, entries[shard], store), shards):
            if damage is not None:
                raise damage


def shard_damage(shard: str, entry: ShardEntry, store: Store) -> DataError | None:
    """What is wrong with a shard, by its size and its checksum."""
    num_bytes = store.size(shard)
    if num_bytes != entry.num_bytes:
        return DataError(f"it has {num_bytes} bytes, written were {entry.num_bytes}", shard=shard)
    if not entry.checksum:
        return DataError("its manifest has no checksum; write the dataset again", shard=shard)
    if shard_checksum(store, shard) != entry.checksum:
        return DataError("its bytes are not those that were written", shard=shard)
    return None


def noted_shards(shards: Sequence[str], store: Store) -> dict[str, ShardEntry]:
    """What the manifests beside the shards say of them."""
    entries: dict[str, ShardEntry] = {}
    for folder in dict.fromkeys(posixpath.dirname(shard) for shard in shards):
        path = posixpath.join(folder, NAME)
        try:
            found = read_manifest(store, path)
        except NotFoundError as error:
            raise PipelineError(
                f"there is no {path!r}, so nothing to verify the shards against; use "
                "verify='off' or write the dataset with iopipe"
            ) from error
        entries |= {posixpath.join(folder, entry.path): entry for entry in found.shards}
    missing = [shard for shard in shards if shard not in entries]
    if missing:
        raise PipelineError(f"the manifest has no {missing[0]!r}; it cannot be verified")
    return entries


def verified(source: Source, store: Store) -> Source:
    """A source that compares each sample that it reads with its checksum."""
    noted = [load_checksums(store, shard) for shard in source.shards]
    return VerifiedSource(source, noted_samples(source, noted, store))


def noted_samples(
    source: Source, noted: Sequence[npt.NDArray[np.uint64]], store: Store
) -> npt.NDArray[np.uint64]:
    """uint64 [2, n]: what was noted of each sample of `source`; `noted` has the sidecar of
    each of its shards."""
    num_written = sum(part.shape[1] for part in noted)
    if len(source) > num_written:
        raise DataError(
            f"it has {len(source)} samples, written were {num_written}; copy the dataset again",
            shard=source.shards[0] if len(source.shards) == 1 else None,
        )
    if len(source) == num_written:
        return np.concatenate([np.empty((2, 0), np.uint64), *noted], axis=1)
    return _aligned(source, noted, store)


def _aligned(
    source: Source, noted: Sequence[npt.NDArray[np.uint64]], store: Store
) -> npt.NDArray[np.uint64]:
    """The same for the samples that a damaged dataset still has, found by their keys; nothing
    that a sample could have where its key was not written."""
    by_key = {
        (shard, key): checksum
        for shard, part in zip(source.shards, noted, strict=True)
        for key, checksum in zip(part[0].tolist(), part[1].tolist(), strict=True)
    }
    found = np.zeros((2, len(source)), np.uint64)
    for sample, name in enumerate(keys_of(source, np.arange(len(source)), store)):
        shard, key = source.locate(sample).shard, key_hash(name)
        is_known = (shard, key) in by_key
        found[0, sample] = key if is_known else _OTHER_KEY ^ key
        found[1, sample] = by_key.get((shard, key), 0)
    return found

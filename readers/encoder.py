"""What writing asks of a format: samples in, the bytes of one shard out.

Stands under the writers of all formats.  Invariant: an encoder knows no file names and no
storage; the same samples make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What is known of a shard when its last byte is written."""

    columns: tuple[str, ...]
    """Of the samples, in the order of the first one."""
    checksums: list[int]
    """`fingerprint` of each sample's fields as the reader gives them back."""
    stores_keys: bool = True
    """Whether samples are read back under the keys that they were written with."""
    companions: Mapping[str, bytes] = field(default_factory=dict)
    """Files to lie beside the shard, by the suffix that their names add to the shard's."""
    siblings: Mapping[str, bytes] = field(default_factory=dict)
    """The same for suffixes that take the place of the shard's own."""


class Encoder(Protocol):
    """Turns samples into the bytes of one shard; only appends to its sink."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the shard so far, an estimate where rows wait to be written."""
        ...

    def write(self, sample: Mapping[str, Any]) -> None:
        """Append one sample: `__key__` and its fields; a `DataError` with the key where the
        format cannot hold it, and then the shard is as it was before."""
        ...

    def finish(self) -> Finished:
        """Write what comes last in the format."""
        ...

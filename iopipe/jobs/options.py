"""What a sharding job is asked to do, as one plain value.

Stands at the head of a job.  Invariant: two jobs with equal options, source and version
write the same bytes, with any engine and any number of workers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from iopipe.errors import PipelineError
from iopipe.jobs.transform import TransformSpec

ShuffleMethod = Literal["auto", "direct", "external"]
JOB_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOptions:
    """Everything but source, destination and machines."""

    format: str = "webdataset"
    shard_samples: int | None = None
    """Input samples a shard; None: as many as make about `shard_bytes`."""
    shard_bytes: int = 256 << 20
    """Of input, judged by the mean size of samples spread over the source."""
    shuffle_seed: int | None = None
    """None: in the order of the source."""
    shuffle_method: ShuffleMethod = "auto"
    """'direct' reads the samples in shuffled order, 'external' reads them in theirs and sorts
    them through files; the bytes written are the same.  'auto': direct where the source is
    on a local file system, or fits in one run."""
    copies: int = 1
    """So many differently shuffled copies, in folders of their own."""
    columns: tuple[str, ...] | None = None
    transforms: tuple[TransformSpec, ...] = ()
    splits: tuple[tuple[str, float], ...] = ()
    """(name, share) of each output, by a stable hash of the key; the shares make 1."""
    dedup: bool = False
    """Leave out samples whose fields are the same as an earlier one's."""
    compression: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    max_errors: int = 100
    """Rejected samples of the whole job that 'skip' tolerates."""

    def __post_init__(self) -> None:
        if self.shard_samples is not None and self.shard_samples < 1:
            raise PipelineError(f"shard_samples is {self.shard_samples}; give 1 or more")
        if self.shard_bytes < 1:
            raise PipelineError(f"shard_bytes is {self.shard_bytes}; give 1 or more")
        if self.copies < 1:
            raise PipelineError(f"copies is {self.copies}; give 1 or more")
        if self.copies > 1 and self.shuffle_seed is None:
            raise PipelineError("copies that are not shuffled are all the same; give shuffle_seed")
        if self.shuffle_method not in ("auto", "direct", "external"):
            raise PipelineError(f"shuffle_method is {self.shuffle_method!r}; use 'auto'")
        if self.on_error not in ("raise", "skip"):
            raise PipelineError(f"on_error is {self.on_error!r}; use 'raise' or 'skip'")
        names = [name for name, _ in self.splits]
        shares = [share for _, share in self.splits]
        if len(set(names)) != len(names) or any(not _is_folder_name(name) for name in names):
            raise PipelineError(f"splits are named {names}; give different plain folder names")
        if self.splits and (min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9):
            raise PipelineError(f"the splits' shares are {shares}; give positive ones that make 1")

    def as_dict(self) -> dict[str, Any]:
        """What decides the bytes that are written, as plain values."""
        decisive = asdict(self)
        for name in ("shuffle_method", "max_errors"):
            del decisive[name]
        return decisive


def _is_folder_name(name: str) -> bool:
    return bool(name) and name.replace("-", "").replace("_", "").isalnum()

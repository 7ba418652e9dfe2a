"""Which tuned configuration is there for a problem on a GPU, and from which file.

Stands between `tuning`, which remembers the answer, and `store`, which reads files.
Invariant: files are read once a process; what is missing is silence, what is damaged or was
tuned for another source is one warning a file, and the next place is asked.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iopipe.errors import DataError
from iopipe.kernels.configs import Config, Kernel, Problem, bucketed
from iopipe.kernels.fingerprint import fingerprint
from iopipe.kernels.gpus import Gpu, triton_minor
from iopipe.kernels.store import Entry, Table, read_table

SHIPPED = Path(__file__).parent / "tuned"
TUNE_DIR = "IOPIPE_TUNE_DIR"

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_warned: set[Path] = set()
_tiers: dict[tuple[str, Gpu], tuple[_Tier, ...]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tier:
    path: Path
    configs: Mapping[tuple[object, ...], Config]
    fitting: set[tuple[object, ...]] = field(default_factory=set)
    """Keys whose configuration was looked at and is one that tuning tries."""


def tuned(kernel: Kernel, problem: Problem, gpu: Gpu) -> Config | None:
    """The first configuration found for the bucket of `problem`, or None."""
    with _lock:
        if (kernel.name, gpu) not in _tiers:
            _tiers[kernel.name, gpu] = tuple(_read(kernel, gpu))
        tiers = _tiers[kernel.name, gpu]
    bucket = bucketed(problem)
    key = _key(bucket)
    for tier in tiers:
        config = tier.configs.get(key)
        if config is not None and (key in tier.fitting or _fits(config, kernel, bucket, tier.path)):
            tier.fitting.add(key)
            _logger.debug("%s: %s is configured by %s", kernel.name, problem, tier.path)
            return config
    _logger.debug("%s: %s has no tuned configuration: heuristic", kernel.name, problem)
    return None


def forget() -> None:
    """Files are read again when next asked, and warned of again."""
    with _lock:
        _tiers.clear()
        _warned.clear()


def own_folders() -> list[Path]:
    """Where this user's configurations are looked for, best first: `IOPIPE_TUNE_DIR`, then
    iopipe/tuned in the cache folder (`XDG_CACHE_HOME`, by default ~/.cache)."""
    folders = []
    if chosen := os.environ.get(TUNE_DIR):
        folders.append(Path(chosen))
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return [*folders, Path(cache, "iopipe", "tuned")]
    try:
        return [*folders, Path.home() / ".cache" / "iopipe" / "tuned"]
    except RuntimeError:  # a user without a home has no cache
        return folders


def _key(problem: Problem) -> tuple[object, ...]:
    return (problem.dtypes, *sorted(problem.shape.items()))


def _read(kernel: Kernel, gpu: Gpu) -> Iterator[_Tier]:
    source, minor = fingerprint(kernel), triton_minor()
    chosen = os.environ.get(TUNE_DIR)
    if chosen and not os.path.isdir(chosen):  # Path's raises where it may not look
        _warn_once(Path(chosen), f"{TUNE_DIR} names {chosen}, which is no folder")
    for folder in (*own_folders(), SHIPPED):
        path = folder / gpu.folder / f"{kernel.name}.json"
        table = _current(path, kernel, source)
        if table is not None and table.gpu == gpu:
            yield _tier(path, [entry for entry in table.entries if entry.triton == minor])
    yield from _same_architecture(kernel, gpu, source)


def _same_architecture(kernel: Kernel, gpu: Gpu, source: str) -> Iterator[_Tier]:
    """Shipped for another Triton, or for another GPU of the same instructions."""
    paths = SHIPPED.glob(f"*/{kernel.name}.json")
    for path in sorted(paths, key=lambda path: (path.parent.name != gpu.folder, path)):
        table = _current(path, kernel, source)
        if table is not None and table.gpu.sm == gpu.sm:
            yield _tier(path, sorted(table.entries, key=lambda entry: _version(entry.triton)))


def _version(minor: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor.split(".") if part.isdigit())


def _tier(path: Path, entries: Sequence[Entry]) -> _Tier:
    """Of entries for the same bucket the last one counts."""
    return _Tier(path=path, configs={_key(entry.problem): entry.config for entry in entries})


def _current(path: Path, kernel: Kernel, source: str) -> Table | None:
    """The table without entries for another source, after a warning where there are any."""
    try:
        table = read_table(path)
    except DataError as error:
        _warn_once(path, f"{error}; delete it, or run `iopipe tune kernels`")
        return None
    if table is None:
        return None
    current = tuple(entry for entry in table.entries if entry.source == source)
    if len(current) < len(table.entries):
        _warn_once(
            path,
            f"{path} is for another version of the kernel {kernel.name}; it is not used: run "
            f"`iopipe tune kernels --kernel {kernel.name}`",
        )
    return dataclasses.replace(table, entries=current)


def _fits(config: Config, kernel: Kernel, bucket: Problem, path: Path) -> bool:
    """Whether it is one that tuning tries; an op must not fail on what a file says."""
    if config in kernel.candidates(bucket):
        return True
    _warn_once(
        path,
        f"{path} is damaged: {kernel.name} has no configuration {dict(config.blocks)} with "
        f"{config.num_warps} warps and {config.num_stages} stages; delete it, or run "
        "`iopipe tune kernels`",
    )
    return False


def _warn_once(path: Path, message: str) -> None:
    if path not in _warned:
        _warned.add(path)
        _logger.warning("%s", message)

"""The child of the jail: opens what may be hostile, and says what came of it.

Reads one example a line, as JSON, and answers each with one line.  Invariant: whatever is
neither right nor refused with an error of iopipe's is a complaint; what the kernel has to
stop ends this process.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, IopipeError
from iopipe.loaders.decode import make_decoder
from iopipe.loaders.decode.native import why_not
from iopipe.protocols import Samples, Source, Store
from iopipe.readers import OpenOptions, inspect_dataset, open_source, verify_dataset
from iopipe.readers.checksums import fingerprint, rows_of
from iopipe.readers.formats import all_formats
from iopipe.readers.wds2idx import read_wds2idx
from iopipe.stages import ImageOptions
from iopipe.storage import MappedStore, MemoryStore, PosixStore

_MAX_FILE_BYTES = 1 << 26
_MAX_SAMPLES = 64
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")


# ---- limits --------------------------------------------------------------------------


class Watch:
    """Notes what code does that bytes should not make it do."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.realpath(folder)
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith((*_FORBIDDEN, "pickle.find_class")):
            self.seen.append(f"{event} {arguments!r}")
        elif event == "open" and arguments[2] & _WRITES:
            self._expect_inside(event, arguments[:1])
        elif event in _CHANGES:
            self._expect_inside(event, arguments[:2])

    def _expect_inside(self, event: str, paths: tuple[Any, ...]) -> None:
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                place = os.path.realpath(os.fsdecode(path))
                if not place.startswith(self._folder + os.sep):
                    self.seen.append(f"{event} of {place}")


def _limit_memory(memory_bytes: int) -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(cpu_seconds: int) -> None:
    """The limit counts from the start of the process, so it moves with every example."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + cpu_seconds, hard))


# ---- what is examined ----------------------------------------------------------------


def _store(kind: str, folder: Path) -> tuple[Store, str]:
    """A store of this kind that has the files of the folder, and what it calls the folder."""
    if kind != "memory":
        return (PosixStore() if kind == "posix" else MappedStore()), str(folder)
    store = MemoryStore()
    for path in folder.iterdir():
        store.write(f"memory://data/{path.name}", path.read_bytes())
    return store, "memory://data"


def read(
    *,
    folder: str,
    name: str,
    store: str,
    verify: str,
    on_error: str,
    options: dict[str, Any],
    expected: dict[str, int],
    has_exact_ranges: bool,
) -> dict[str, Any]:
    """Open the file `name` of a dataset and read it, together and one by one; `expected` has
    the fingerprint of each key's fields."""
    opened, root = _store(store, Path(folder))
    try:
        source = open_source(
            f"{root}/{name}",
            store=opened,
            verify=verify,  # type: ignore[arg-type]
            on_error=on_error,  # type: ignore[arg-type]
            options=OpenOptions(**options),
        )
        ids = [*range(min(len(source), _MAX_SAMPLES))]
        chunks = [chunk for chunk in (ids, *([n] for n in ids)) if chunk]
        outcomes = [_chunk(source, chunk, opened) for chunk in chunks]
        if has_exact_ranges:
            outcomes.append(_outside(source, ids, opened))
    finally:
        opened.close()
    found = [pair for outcome in outcomes for pair in outcome if isinstance(pair, tuple)]
    complaints = [word for outcome in outcomes for word in outcome if isinstance(word, str)]
    if verify == "sample":
        wrong = {key for key, checksum in found if expected.get(key) != checksum}
        complaints += [f"not what was written: {key!r}" for key in sorted(wrong)]
    return {
        "num_samples": len(source),
        "found": dict(found),
        "complaints": complaints,
    }


def _chunk(source: Source, ids: list[int], store: Store) -> list[tuple[str, int] | str]:
    """(key, fingerprint) of each sample, or nothing where they are refused; and complaints."""
    try:
        samples = source.samples(ids, store)
    except IopipeError as error:
        is_placed = not isinstance(error, DataError) or error.row is not None or error.shard
        return [*_out_of_memory(error), *([] if is_placed else [f"no place in {error!r}"])]
    answers: list[tuple[str, int] | str] = []
    if tuple(samples.columns) != source.columns or samples.ids.tolist() != ids:
        answers.append(f"columns {list(samples.columns)} of {source.columns}")
    lengths = {len(samples), len(samples.keys), *map(len, samples.columns.values())}
    if lengths != {len(ids)}:
        answers.append(f"columns of lengths {lengths} for {len(ids)} samples")
    for sample, key, fields in zip(ids, samples.keys, rows_of(samples), strict=True):
        if source.locate(sample).shard not in source.shards:
            answers.append(f"{source.locate(sample)} is no place in it")
        answers.append((key, fingerprint(fields)))
    return answers


def _outside(source: Source, ids: list[int], store: Store) -> list[tuple[str, int] | str]:
    try:
        ranges = source.ranges(ids)
    except IopipeError as error:
        return [*_out_of_memory(error)]
    return [
        f"{part} is not in the file"
        for part in ranges
        if not 0 <= part.offset <= part.offset + part.length <= store.size(part.path)
    ]


def verify(*, folder: str) -> dict[str, Any]:
    found = verify_dataset(folder)
    return {"is_intact": found.is_intact, "complaints": []}


def inspect(*, folder: str) -> dict[str, Any]:
    found = inspect_dataset(folder)
    return {"num_samples": found.num_samples, "complaints": []}


def wds2idx(*, path: str) -> dict[str, Any]:
    index = read_wds2idx(path)
    shapes = {index.offsets.shape, index.lengths.shape, (len(index), len(index.columns))}
    is_sane = len(shapes) == 1 and not (index.offsets < 0).any()
    return {"num_samples": len(index), "complaints": [] if is_sane else [f"shapes {shapes}"]}


def decode(*, path: str, name: str, size: int | None, max_pixels: int) -> dict[str, Any]:
    """One field, as the pipeline decodes it."""
    content = Path(path).read_bytes()
    options = ImageOptions(size=size and (size, size), max_pixels=max_pixels)
    samples = Samples(ids=np.arange(1), keys=["k"], columns={name: [memoryview(content)]})
    (value,) = make_decoder(options)(samples).columns[name]
    shape = list(getattr(value, "shape", ()))
    return {"shape": shape, "complaints": []}


def misbehave(*, how: str, where: str = "") -> dict[str, Any]:
    """What the jail is there for; its own tests ask for it."""
    if how == "loop":
        while True:
            pass
    if how == "allocate":
        held = [bytearray(1 << 24) for _ in range(1000)]
        return {"complaints": [f"{len(held)} pieces of 16 MiB were allowed"]}
    if how == "die":
        os.abort()
    if how == "write":
        Path(where).write_bytes(b"x")
    if how == "raise":
        raise KeyError(where)
    if how == "refuse":
        raise DataError("refused")
    return {"complaints": []}


_OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function for function in (read, verify, inspect, wds2idx, decode, misbehave)
}


# ---- the loop ------------------------------------------------------------------------


def _answer(example: dict[str, Any], watch: Watch) -> dict[str, Any]:
    watch.seen.clear()
    operation = _OPERATIONS[example.pop("operation")]
    try:
        answer = {"refused": None, **operation(**example)}
    except IopipeError as error:
        refusal = f"{type(error).__name__}: {error}"
        answer = {"refused": refusal, "complaints": _out_of_memory(error)}
    except Exception:
        answer = {"refused": None, "complaints": [traceback.format_exc()]}
    answer["complaints"] += watch.seen
    return answer


def _out_of_memory(error: BaseException) -> list[str]:
    """An allocation that only the limit stopped was no check of ours."""
    return [
        "only the memory limit stopped it: " + "".join(traceback.format_exception(error))
        for cause in _causes(error)
        if isinstance(cause, MemoryError)
    ][:1]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def main(folder: str, cpu_seconds: int, memory_bytes: int) -> None:
    faulthandler.enable()
    sys.dont_write_bytecode = True
    threading.stack_size(1 << 20)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    all_formats()
    assert why_not() is None  # compiled before anything is watched
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watch = Watch(folder)
    sys.addaudithook(watch)
    _limit_memory(memory_bytes)
    gc.collect()
    gc.freeze()  # what lives now stays, and need not be looked through after every example
    for line in sys.stdin:
        _limit_time(cpu_seconds)
        answer = _answer(json.loads(line), watch)
        gc.collect()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""The external shuffle: samples are read in their order and sorted through files.

Stands between source and shards where reading in shuffled order would be slow.  Invariant:
no more than one run, or one output shard, is in memory at a time, whatever the size of the
dataset.

A run is a stretch of input samples, written once as an Arrow IPC file with one record batch
for each output shard that it has samples of; an output shard takes its batches from all
runs and sorts them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import PipelineError, StorageError
from iopipe.jobs.plan import Output, Task
from iopipe.jobs.reading import Job, Reader, Rejection
from iopipe.jobs.transform import Sample
from iopipe.jobs.upload import mapped_errors
from iopipe.protocols import Int64Array
from iopipe.readers.arrow_columns import column_of

_POSITION, _KEY = "__position__", "__key__"
_CHUNK_SAMPLES = 64


def run_path(job: Job, output: Output, run: int) -> Path:
    return Path(job.scratch, f"{_prefix(job, output)}{run:06d}.arrow")


def _prefix(job: Job, output: Output) -> str:
    return f"run-{job.plan.outputs.index(output):03d}-"


def num_runs(output: Output, samples_per_run: int) -> int:
    return -(-output.num_samples // samples_per_run)


def write_run(reader: Reader, output: Output, run: int, samples_per_run: int) -> None:
    """Read one stretch of the output's input samples and file it by output shard."""
    job = reader.job
    path = run_path(job, output, run)
    if path.exists():
        return
    first = run * samples_per_run
    last = min(first + samples_per_run, output.num_samples)
    rows: list[tuple[int, Sample]] = []
    rejected: list[Rejection] = []
    for start in range(first, last, _CHUNK_SAMPLES):
        end = min(start + _CHUNK_SAMPLES, last)
        ids = reader.ids(output, np.arange(start, end))
        found, lost = reader.read(ids, job.plan.positions(output, start, end))
        rows += [(position, _kept(sample)) for position, sample in found]
        rejected += lost
    rows.sort(key=lambda row: row[0])
    _write(path, rows, rejected, reader.source.schema, job.plan.samples_per_shard)


def _kept(sample: Sample) -> Sample:
    """Bytes of their own: views would keep whole chunks of the source alive."""
    return {name: _own(value) for name, value in sample.items()}


def _own(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [_own(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def _write(
    path: Path,
    rows: list[tuple[int, Sample]],
    rejected: list[Rejection],
    columns: pa.Schema,
    samples_per_shard: int,
) -> None:
    shards = np.array([position for position, _ in rows], np.int64) // samples_per_shard
    found, starts = np.unique(shards, return_index=True)
    codes = {field.name: _code(field, rows) for field in columns}
    header = {
        "shards": found.tolist(),
        "rejected": [asdict(rejection) for rejection in rejected],
        "codes": codes,
    }
    fields: list[pa.Field[Any]] = [pa.field(_POSITION, pa.int64()), pa.field(_KEY, pa.string())]
    fields += [_stored(field, codes[field.name]) for field in columns]
    schema = pa.schema(fields).with_metadata({"iopipe": json.dumps(header)})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with (
            mapped_errors(str(path.parent)),
            open(temporary, "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                writer.write_batch(_batch(rows[start:end], schema, codes))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _batch(
    rows: list[tuple[int, Sample]], schema: pa.Schema, codes: Mapping[str, str]
) -> pa.RecordBatch:
    arrays: list[Any] = []
    for column in schema:
        if column.name == _POSITION:
            arrays.append(pa.array([position for position, _ in rows], column.type))
            continue
        encode = _ENCODERS[codes.get(column.name, "")]
        try:
            arrays.append(pa.array([encode(s[column.name]) for _, s in rows], column.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise PipelineError(
                f"column {column.name!r} has values that are no {column.type} ({error}); use "
                "shuffle_method='direct'"
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


# ---- values --------------------------------------------------------------------------


def _code(field: pa.Field[Any], rows: list[tuple[int, Sample]]) -> str:
    """How the values of a column are stored, so that they come back as they were."""
    values = [sample[field.name] for _, sample in rows]
    if all(isinstance(value, np.ndarray) for value in values):
        return "npy"
    is_text = pa.types.is_string(field.type) and all(isinstance(value, str) for value in values)
    return "json" if pa.types.is_string(field.type) and not is_text else ""


def _stored(field: pa.Field[Any], code: str) -> pa.Field[Any]:
    kind: Any = pa.large_binary() if code == "npy" else field.type
    return pa.field(field.name, kind.value_type if pa.types.is_dictionary(kind) else kind)


def _as_npy(value: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, value, allow_pickle=False)
    return content.getvalue()


def _same(value: Any) -> Any:
    return value


_ENCODERS: dict[str, Callable[[Any], Any]] = {"": _same, "npy": _as_npy, "json": json.dumps}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "": _same,
    "npy": lambda value: np.load(io.BytesIO(value), allow_pickle=False),
    "json": json.loads,
}


# ---- output shards -------------------------------------------------------------------


def gathered(job: Job, task: Task) -> Iterator[tuple[list[tuple[int, Sample]], list[Rejection]]]:
    """The samples of an output shard from all runs, sorted, a chunk at a time."""
    rows: list[tuple[int, Sample]] = []
    rejected: list[Rejection] = []
    for path in sorted(Path(job.scratch).glob(f"{_prefix(job, task.output)}*.arrow")):
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            header = json.loads((reader.schema.metadata or {})[b"iopipe"])
            rejected += [
                Rejection(**lost)
                for lost in header["rejected"]
                if task.first <= lost["position"] < task.last
            ]
            if task.shard in header["shards"]:
                batch = reader.get_batch(header["shards"].index(task.shard))
                rows += _rows(batch, header["codes"])
    if len(rows) + len(rejected) != task.last - task.first:
        raise StorageError(
            f"{len(rows) + len(rejected)} of {task.last - task.first} samples of shard "
            f"{task.shard} are in the runs in {job.scratch!r}; all workers must see this folder"
        )
    rows.sort(key=lambda row: row[0])
    yield [], rejected
    for start in range(0, len(rows), _CHUNK_SAMPLES):
        yield rows[start : start + _CHUNK_SAMPLES], []


def _rows(batch: pa.RecordBatch, codes: Mapping[str, str]) -> list[tuple[int, Sample]]:
    positions: Int64Array = batch.column(_POSITION).to_numpy()
    columns = {
        name: (column_of(batch.column(name)), _DECODERS[codes.get(name, "")])
        for name in batch.schema.names
        if name != _POSITION
    }
    return [
        (
            int(position),
            {name: decode(column[row]) for name, (column, decode) in columns.items()},
        )
        for row, position in enumerate(positions)
    ]

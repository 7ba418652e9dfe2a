"""DALI reads the shards that we write, and the index that we write for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iopipe.readers import DatasetWriter
from iopipe.readers.index import load_index
from iopipe.readers.wds2idx import read_wds2idx, write_wds2idx
from iopipe.storage import PosixStore

pytestmark = pytest.mark.dali


def _read_by_dali(shards: list[str], indexes: list[str]) -> list[tuple[bytes, bytes]]:
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=5, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def reading() -> Any:
        return tuple(
            fn.readers.webdataset(
                paths=shards,
                index_paths=indexes,
                ext=["bin", "cls"],
                missing_component_behavior="error",
            )
        )

    pipeline = reading()
    pipeline.build()
    found = []
    for _ in range(4):
        contents, labels = pipeline.run()
        found += [
            (np.asarray(contents.at(row)).tobytes(), np.asarray(labels.at(row)).tobytes())
            for row in range(5)
        ]
    return found


def test_dali_reads_what_we_write(tmp_path: Path) -> None:
    samples = [(bytes([number]) * (number * 700 + 1), b"%d" % number) for number in range(20)]
    with DatasetWriter(tmp_path, max_samples=8) as writer:
        for number, (content, label) in enumerate(samples):
            writer.write({"__key__": f"dir/k{number:03d}", "bin": content, "cls": label})
    shards = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    assert _read_by_dali(shards, []) == samples
    store = PosixStore()
    indexes = []
    for shard in shards:
        index = load_index(store, shard)
        write_wds2idx(index, f"{shard}.idx")
        assert read_wds2idx(f"{shard}.idx").keys.equals(index.keys)
        indexes.append(f"{shard}.idx")
    assert _read_by_dali(shards, indexes) == samples

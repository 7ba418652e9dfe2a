"""MDS shards as mosaicml-streaming's own writer makes them."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iopipe.errors import DataError, IopipeError
from iopipe.readers import OpenOptions, open_source
from iopipe.storage import MappedStore, PosixStore

_WRITER = Path(__file__).with_name("write_mds.py")


def _expected() -> Callable[[int], dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("write_mds", _WRITER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[int], dict[str, Any]] = module.sample
    return found


def _written(folder: Path, compression: str, kind: str = "plain") -> Path:
    command = [sys.executable, str(_WRITER), str(folder), compression, kind]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("mds")
    return {name: _written(base / name, name) for name in ("none", "zstd", "zstd:9")}


@pytest.mark.parametrize("compression", ["none", "zstd", "zstd:9"])
@pytest.mark.parametrize("store_class", [PosixStore, MappedStore])
def test_samples_of_the_real_writer_are_read(
    datasets: dict[str, Path], compression: str, store_class: Any
) -> None:
    store, sample = store_class(), _expected()
    source = open_source(datasets[compression])
    assert len(source) == 30 and len(source.shards) > 2
    for ids in (range(30), [29, 0, 7, 7]):
        samples = source.samples(ids, store)
        for row, number in enumerate(ids):
            for name, value in sample(number).items():
                found = samples.columns[name][row]
                if isinstance(value, bytes):
                    assert bytes(found) == value
                elif isinstance(value, np.ndarray):
                    assert found.dtype == value.dtype and np.array_equal(found, value)
                else:
                    assert found == value
    assert samples.columns["label"].dtype == np.int64  # type: ignore[union-attr]
    again = pickle.loads(pickle.dumps(source))
    assert bytes(again.samples([3], store).columns["image"][0]) == bytes([3]) * 31
    store.close()


def test_however_it_is_named(datasets: dict[str, Path]) -> None:
    folder = datasets["none"]
    whole = open_source(folder)
    assert open_source(folder / "index.json").digest == whole.digest
    one = open_source(folder / "shard.00001.mds", columns=["label"])
    assert one.columns == ("label",) and 0 < len(one) < 30
    assert one.shards == (str(folder / "shard.00001.mds"),)


def test_pickled_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'pkl' can run code"):
        open_source(_written(tmp_path / "x", "none", "pickled"))


def test_unpacked_size_is_limited(datasets: dict[str, Path]) -> None:
    source = open_source(datasets["zstd"], options=OpenOptions(max_sample_bytes=100))
    with pytest.raises(DataError, match="allowed are 100"):
        source.samples([0], PosixStore())
    raw = open_source(datasets["none"], options=OpenOptions(max_sample_bytes=200))
    assert len(raw.samples([0], PosixStore())) == 1
    with pytest.raises(DataError, match="allowed are 200") as caught:
        raw.samples([0, 29], PosixStore())
    assert caught.value.row == 1


def _copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(samples=10**9),
        lambda entry: entry.update(samples=-1),
        lambda entry: entry["raw_data"].update(basename="../x.mds"),
        lambda entry: entry["raw_data"].update(basename="/etc/passwd"),
        lambda entry: entry["raw_data"].update(bytes="many"),
        lambda entry: entry.update(column_encodings=["pkl"] * 8),
        lambda entry: entry.update(column_encodings=["ndarray:nothing"] * 8),
        lambda entry: entry.update(column_names=["a"]),
        lambda entry: entry.update(compression="br"),
        lambda entry: entry.update(format="json"),
        lambda entry: entry.pop("raw_data"),
    ],
)
def test_a_hostile_index_is_an_error(
    datasets: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    folder = _copied(datasets["none"], tmp_path / "x")
    index = json.loads((folder / "index.json").read_text())
    for entry in index["shards"]:
        change(entry)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError):
        open_source(folder, format="mds").samples([0], PosixStore())


@pytest.mark.parametrize("name", ["none", "zstd"])
def test_damaged_shards_are_errors_or_change_values_only(
    datasets: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """MDS shards have no checksums of their own: a flipped bit of a value is a value."""
    folder = _copied(datasets[name], tmp_path / "x")
    shard = next(iter(sorted(folder.glob("shard.00000.*"))))
    content = shard.read_bytes()
    for offset in range(0, len(content), 13):
        shard.write_bytes(
            content[:offset] + bytes([content[offset] ^ 0x80]) + content[offset + 1 :]
        )
        try:
            open_source(folder).samples([0, 1], PosixStore())
        except IopipeError:
            continue
    for end in (0, 3, 50, len(content) - 1):
        shard.write_bytes(content[:end])
        with pytest.raises(IopipeError):
            source = open_source(folder)
            source.samples(range(len(source)), PosixStore())

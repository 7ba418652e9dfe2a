"""Which configuration a launch gets: the order of places, and what happens to bad files."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes import scale_cast

from iopipe.bench.kernels.catalogue import kernels_of, modules_of_cases
from iopipe.kernels import lookup, tuning
from iopipe.kernels.configs import Config, Problem, bucket, bucketed
from iopipe.kernels.fingerprint import fingerprint
from iopipe.kernels.gpus import Gpu, triton_minor
from iopipe.kernels.store import Entry, Table, merged, read_table, write_table
from iopipe.kernels.tuning import resolve

H200 = Gpu(name="NVIDIA H200", sm=90, num_multiprocessors=132, l2_bytes=62914560)
H100 = Gpu(name="NVIDIA H100 80GB HBM3", sm=90, num_multiprocessors=132, l2_bytes=52428800)
B200 = Gpu(name="NVIDIA B200", sm=100, num_multiprocessors=148, l2_bytes=132644864)
PROBLEM = Problem(dtypes=("uint8", "float32"), shape={"values": 3000})


def _config(block: int) -> Config:
    return Config(blocks={"BLOCK": block}, num_warps=8, num_stages=1)


KERNEL = dataclasses.replace(
    scale_cast.KERNEL, candidates=lambda problem: [_config(1 << power) for power in range(6, 13)]
)
HEURISTIC = KERNEL.heuristic(PROBLEM)


@dataclasses.dataclass(frozen=True)
class Places:
    """The three folders of a user's machine."""

    user: Path
    cache: Path
    shipped: Path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    found = Places(tmp_path / "user", tmp_path / "xdg" / "iopipe" / "tuned", tmp_path / "shipped")
    found.user.mkdir()
    monkeypatch.setenv("IOPIPE_TUNE_DIR", str(found.user))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(lookup, "SHIPPED", found.shipped)
    monkeypatch.setattr(tuning, "current_gpu", lambda: H200)
    tuning.forget()
    yield found
    tuning.forget()


def _put(
    folder: Path,
    block: int,
    *,
    gpu: Gpu = H200,
    minor: str | None = None,
    source: str | None = None,
    kernel: str = KERNEL.name,
    problem: Problem = PROBLEM,
) -> Path:
    entry = Entry(
        source=source or fingerprint(KERNEL),
        triton=minor or triton_minor(),
        problem=bucketed(problem),
        config=_config(block),
    )
    path = folder / gpu.folder / f"{kernel}.json"
    new = Table(kernel=KERNEL.name, gpu=gpu, entries=(entry,))
    write_table(path, merged(read_table(path), new))
    return path


def test_places_are_asked_in_order(places: Places) -> None:
    _put(places.shipped, 512, gpu=H100)
    _put(places.shipped, 1024)
    _put(places.cache, 2048)
    user = _put(places.user, 4096)
    for path, block in (
        (user, 4096),
        (places.cache / H200.folder / "scale_cast.json", 2048),
        (places.shipped / H200.folder / "scale_cast.json", 1024),
        (places.shipped / H100.folder / "scale_cast.json", 512),
    ):
        assert resolve(KERNEL, PROBLEM) == _config(block)
        path.unlink()
        assert resolve(KERNEL, PROBLEM) == _config(block), "remembered until forgotten"
        tuning.forget()
    assert resolve(KERNEL, PROBLEM) == HEURISTIC


def test_the_folder_is_read_when_first_used(
    places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _put(tmp_path / "other", 256)
    monkeypatch.setenv("IOPIPE_TUNE_DIR", str(tmp_path / "other"))
    assert resolve(KERNEL, PROBLEM) == _config(256)


@pytest.mark.parametrize(
    "problem",
    [
        dataclasses.replace(PROBLEM, shape={"values": 4097}),
        dataclasses.replace(PROBLEM, dtypes=("uint8", "bfloat16")),
        dataclasses.replace(PROBLEM, shape={"rows": 3000}),
    ],
)
def test_another_bucket_dtype_or_name_is_another_problem(places: Places, problem: Problem) -> None:
    _put(places.user, 256)
    assert resolve(KERNEL, problem) == HEURISTIC
    for values in (2049, 4096):
        same = dataclasses.replace(PROBLEM, shape={"values": values})
        assert resolve(KERNEL, same) == _config(256)


@pytest.mark.parametrize(
    "change",
    [{"name": "NVIDIA H200 NVL"}, {"num_multiprocessors": 66}, {"l2_bytes": 1 << 20}, {"sm": 100}],
)
def test_a_user_s_file_counts_for_the_very_same_gpu(
    places: Places, monkeypatch: pytest.MonkeyPatch, change: Mapping[str, Any]
) -> None:
    _put(places.user, 256)
    other = dataclasses.replace(H200, **change)
    monkeypatch.setattr(tuning, "current_gpu", lambda: other)
    assert resolve(KERNEL, PROBLEM) == HEURISTIC


def test_another_triton_counts_only_where_it_was_shipped(places: Places) -> None:
    _put(places.user, 256, minor="3.1")
    assert resolve(KERNEL, PROBLEM) == HEURISTIC
    _put(places.shipped, 512, minor="3.2")
    _put(places.shipped, 1024, minor="3.10")
    tuning.forget()
    assert resolve(KERNEL, PROBLEM) == _config(1024), "3.10 is newer than 3.2"
    _put(places.shipped, 128, gpu=B200)
    tuning.forget()
    assert resolve(KERNEL, PROBLEM) == _config(1024), "another architecture never counts"


def test_no_gpu_means_the_heuristic(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(places.user, 256)
    monkeypatch.setattr(tuning, "current_gpu", lambda: None)
    assert resolve(KERNEL, PROBLEM) == HEURISTIC


def test_what_is_missing_is_silent(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve(KERNEL, PROBLEM) == HEURISTIC
    assert not caplog.records
    tuning.forget()
    with caplog.at_level(logging.DEBUG):
        resolve(KERNEL, PROBLEM)
    assert "scale_cast" in caplog.text
    assert "heuristic" in caplog.text


def _rewrite(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


BAD: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_text(path.read_text()[:-20]),
    "no text": lambda path: path.write_bytes(b"\x80\x04\x95pickle"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a list": lambda path: path.write_text("[]"),
    "another schema": lambda path: _rewrite(path, lambda c: c.update(schema=99)),
    "no entries": lambda path: _rewrite(path, lambda c: c.pop("entries")),
    "words for sizes": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"]["blocks"].update(BLOCK="__import__('os')")
    ),
    "a negative size": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"].update(num_warps=-4)
    ),
    "truth for a number": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"].update(num_stages=True)
    ),
    "unknown blocks": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"].update(blocks={"ROWS": 4})
    ),
    "no number of warps": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"].update(num_warps=3)
    ),
    "a size that divides by zero": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"]["blocks"].update(BLOCK=0)
    ),
    "a size of a hundred digits": lambda path: _rewrite(
        path, lambda c: c["entries"][0]["config"]["blocks"].update(BLOCK=10**99)
    ),
    "no end of lists": lambda path: path.write_text("[" * 100_000),
    "another source": lambda path: _rewrite(
        path, lambda c: c["entries"][0].update(source="0123456789abcdef")
    ),
}


@pytest.mark.parametrize("damage", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_one_warning_and_the_next_place(
    places: Places, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    path = _put(places.user, 256)
    damage(path)
    _put(places.cache, 512)
    with caplog.at_level(logging.WARNING):
        for values in (3000, 3001, 9000):
            problem = dataclasses.replace(PROBLEM, shape={"values": values})
            expected = _config(512) if values < 4096 else HEURISTIC
            assert resolve(KERNEL, problem) == expected
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "tune kernels" in record.getMessage()


def test_a_folder_that_is_none_is_one_warning(
    places: Places, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOPIPE_TUNE_DIR", "/nowhere")
    assert resolve(KERNEL, PROBLEM) == HEURISTIC
    assert [record.getMessage() for record in caplog.records] == [
        "IOPIPE_TUNE_DIR names /nowhere, which is no folder"
    ]


def test_a_folder_that_nobody_may_look_into_is_one_warning(
    places: Places, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOPIPE_TUNE_DIR", "/" + 300 * "x")  # not allowed, as for other reasons
    assert resolve(KERNEL, PROBLEM) == HEURISTIC
    assert "which is no folder" in caplog.text


def test_every_heuristic_is_a_candidate_in_its_whole_bucket() -> None:
    """Else what tuning kept of one problem would count as damaged for its neighbours."""
    names = {
        "crc32c": ("ranges", "bytes"),
        "columns": ("rows", "entries", "width", "ranked"),
        "image": ("images", "channels", "height", "width", "mixes"),
        "tokens": ("rows", "length"),
        "ragged_pad": ("rows", "words"),
        "ragged_copy": ("tokens", "rows", "words"),
        "ragged_runs": ("bytes", "rows"),
    }
    kernels = kernels_of(modules_of_cases())
    assert set(names) == set(kernels)
    sizes = (1, 3, 20, 33, 224, 300, 1000, 5000, 20_000, 99_999, 5_000_000, 999_999_999)
    for name, kernel in kernels.items():
        for first in sizes:
            for rest in sizes:
                shape = {key: rest for key in names[name]} | {names[name][0]: first}
                problem = Problem(dtypes=("uint8", "int64"), shape=shape)
                assert kernel.heuristic(problem) in kernel.candidates(bucketed(problem)), problem


def test_a_user_without_a_home_gets_the_heuristic(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    assert lookup.own_folders() == [places.user]
    assert resolve(KERNEL, PROBLEM) == HEURISTIC


def _no_home() -> Path:
    raise RuntimeError("could not determine home directory")


def test_choices_are_remembered_within_bounds(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_MAX_CHOICES", 8)
    for values in range(100):
        resolve(KERNEL, dataclasses.replace(PROBLEM, shape={"values": values}))
        assert len(tuning._choices) <= 8


def test_a_table_is_what_was_written_and_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _put(tmp_path, 256)
    _put(tmp_path, 512, minor="9.9")
    _put(tmp_path, 1024)
    table = read_table(path)
    assert table is not None
    assert (table.kernel, table.gpu) == (KERNEL.name, H200)
    assert [entry.config for entry in table.entries] == [_config(1024), _config(512)]
    _put(tmp_path, 64, source="f" * 16)
    table = read_table(path)
    assert table is not None
    assert [entry.config for entry in table.entries] == [_config(64)], "older sources go"

    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", _killed)
    with pytest.raises(KeyboardInterrupt):
        _put(tmp_path, 2048)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path], "nothing is left of the new one"


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_buckets_are_powers_of_two() -> None:
    sizes = (0, 1, 2, 3, 4, 5, 8, 9, 224, 2**31, 2**31 + 1)
    assert [bucket(n) for n in sizes] == [0, 1, 2, 4, 4, 8, 8, 16, 256, 2**31, 2**32]

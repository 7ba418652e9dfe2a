"""Native JPEG decoding is compiled once, and what is in the way of that is said."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.pictures import encoded, picture
from PIL import Image

import iopipe
from iopipe.errors import MissingDependency
from iopipe.loaders.decode import native
from iopipe.loaders.decode.stage import make_decoder
from iopipe.protocols import Samples
from iopipe.stages import ImageOptions


@pytest.fixture
def unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As in a process that has not decoded yet, with an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    native.load.cache_clear()
    native.why_not.cache_clear()
    yield tmp_path
    native.load.cache_clear()
    native.why_not.cache_clear()


def test_it_is_built_once(unloaded: Path) -> None:
    first = native._built()
    age = first.stat().st_mtime_ns
    assert native._built() == first and first.stat().st_mtime_ns == age
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_without_a_compiler_it_says_so_once(
    unloaded: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", os.fspath(unloaded))
    with pytest.raises(MissingDependency, match="needs a C compiler"):
        native.load()
    samples = Samples(
        ids=np.arange(2),
        keys=["a", "b"],
        columns={"jpg": [memoryview(encoded(picture(50, 50)))] * 2},
    )
    caplog.set_level(logging.WARNING)
    decode = make_decoder(ImageOptions(size=(16, 16)))
    by_steps = next(decode(samples).columns["jpg"] for _ in range(2))
    assert caplog.text.count("needs a C compiler") == 1
    monkeypatch.undo()
    native.why_not.cache_clear()
    natively = decode(samples).columns["jpg"]
    assert np.abs(np.asarray(by_steps).astype(int) - natively).max() <= 1


def test_a_compiler_that_fails_is_quoted(unloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = unloaded / "cc"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", os.fspath(compiler))
    with pytest.raises(MissingDependency, match="no such flag"):
        native.load()


def test_processes_build_it_side_by_side(tmp_path: Path) -> None:
    code = "from iopipe.loaders.decode import native; assert native.why_not() is None"
    root = os.fspath(Path(iopipe.__file__).parents[1])
    environment = {**os.environ, "XDG_CACHE_HOME": os.fspath(tmp_path), "PYTHONPATH": root}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait(100) for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.rglob("*.so"))) == 1


def test_a_cache_that_cannot_be_written_is_said_and_images_are_decoded_all_the_same(
    unloaded: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container with a read-only home folder."""
    (unloaded / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(unloaded / "file"))
    content = encoded(picture(50, 50))
    samples = Samples(ids=np.arange(1), keys=["a"], columns={"jpg": [memoryview(content)]})
    (found,) = make_decoder(ImageOptions(size=(50, 50)))(samples).columns["jpg"]
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(content))))
    assert "set XDG_CACHE_HOME" in caplog.text


def test_without_a_home_folder_it_says_so(unloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(MissingDependency, match=r"home directory\.; set XDG_CACHE_HOME"):
        native.load()


def test_compiled_code_that_was_cut_short_says_what_to_do(
    unloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = unloaded / "empty.so"
    empty.write_bytes(b"")
    monkeypatch.setattr(native, "_built", lambda: empty)
    with pytest.raises(MissingDependency, match=r"empty\.so.*remove that file"):
        native.load()

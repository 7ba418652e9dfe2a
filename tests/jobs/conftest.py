"""Small datasets for jobs, and a way to compare what they wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iopipe.readers import DatasetWriter


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """60 loose files in three class folders."""
    generator = np.random.default_rng(5)
    for number in range(60):
        folder = tmp_path / "files" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.jpg").write_bytes(
            generator.bytes(int(generator.integers(1, 3000)))
        )
    return tmp_path / "files"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """40 texts in two tar shards; some are the same."""
    with DatasetWriter(tmp_path / "texts", max_samples=20) as writer:
        for number in range(40):
            text = f"the {number % 30} foxes jump over {number % 30 * 7} dogs"
            writer.write({"__key__": f"t{number:03d}", "txt": text})
    return tmp_path / "texts"


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """All files of an output by name, without the job's own notes."""

    def found(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and ".iopipe-job" not in path.parts
        }

    return found

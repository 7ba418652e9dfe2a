"""Opening: from what users type to the right shards in the right order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iopipe.errors import DataError, NotFoundError, PipelineError
from iopipe.readers import DatasetWriter, open_source, write_arrow
from iopipe.readers.open import _expanded
from iopipe.storage import MemoryStore


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    with DatasetWriter(folder, max_samples=2) as writer:
        for number in range(6):
            writer.write({"__key__": str(number), "txt": f"t{number}"})
    return folder


def _names(source: Any) -> list[str]:
    return [shard.rsplit("/", 1)[-1] for shard in source.shards]


@pytest.mark.parametrize(
    "pattern",
    [
        "{}",
        "{}/",
        "{}/manifest.json",
        "{}/*.tar",
        "{}/shard-00000?.tar",
        "{}/shard-{{000000..000002}}.tar",
        "{}/{{shard-000000,shard-000001,shard-000002}}.tar",
        "file://{}/*.tar",
    ],
)
def test_a_dataset_is_found_however_it_is_named(dataset: Path, pattern: str) -> None:
    source = open_source(pattern.format(dataset))
    assert _names(source) == [f"shard-00000{n}.tar" for n in range(3)]
    assert len(source) == 6


def test_paths_and_lists_of_them(dataset: Path) -> None:
    assert len(open_source(dataset)) == 6
    two = open_source([dataset / "shard-000002.tar", f"{dataset}/shard-000000.tar"])
    assert _names(two) == ["shard-000002.tar", "shard-000000.tar"]


def test_braces_expand_as_in_a_shell() -> None:
    assert list(_expanded("a{08..11}b{x,y}")) == [
        f"a{n:02d}b{c}" for n in range(8, 12) for c in "xy"
    ]
    assert list(_expanded("{8..11}")) == ["8", "9", "10", "11"]
    with pytest.raises(PipelineError, match="first <= last"):
        list(_expanded("{9..8}"))


def test_the_format_is_judged_by_content(dataset: Path, tmp_path: Path) -> None:
    odd = tmp_path / "shard.data"
    odd.write_bytes((dataset / "shard-000000.tar").read_bytes())
    assert open_source(odd).columns == ("txt",)
    write_arrow(tmp_path / "x.tar", [{"x": 1}])
    assert type(open_source(tmp_path / "x.tar")).__name__ == "ArrowSource"
    with pytest.raises(PipelineError, match="several formats"):
        open_source([odd, tmp_path / "x.tar"])
    (tmp_path / "notes.md").write_text("no shard")
    with pytest.raises(DataError, match=r"notes\.md.*no format"):
        open_source(tmp_path / "notes.md")


@pytest.mark.parametrize("name", ["none.tar", "none-*.tar", "none-{0..3}.tar"])
def test_what_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="none"):
        open_source(tmp_path / name)


def test_an_empty_folder_or_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_source(tmp_path)
    with pytest.raises(PipelineError, match="no paths"):
        open_source([])


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"shards": "x"},
        {"shards": [{"path": "/etc/passwd", "num_samples": 1, "num_bytes": 1}]},
        {"shards": [{"path": "../x.tar", "num_samples": 1, "num_bytes": 1}]},
        {"shards": [{"path": "s3://b/x.tar", "num_samples": 1, "num_bytes": 1}]},
        {"shards": [{"path": "x.tar", "num_samples": "many", "num_bytes": 1}]},
        {"shards": [{}]},
    ],
)
def test_a_hostile_manifest_is_refused(dataset: Path, change: dict[str, Any]) -> None:
    manifest = dataset / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(DataError, match="manifest"):
        open_source(dataset)


def test_a_store_of_the_callers_is_used(dataset: Path) -> None:
    store = MemoryStore()
    for path in sorted(dataset.glob("*.tar")):
        store.write(f"memory://d/{path.name}", path.read_bytes())
    source = open_source("memory://d/*.tar", store=store)
    assert source.samples([5, 0], store).row(0) == {"__key__": "5", "txt": b"t5"}


def test_opening_loose_files_does_not_import_what_only_filters_need(tmp_path: Path) -> None:
    """In every worker process pyarrow.compute takes 40 ms, pyarrow.dataset with pandas 300."""
    (tmp_path / "a.txt").write_text("x")
    code = (
        "import sys; from iopipe.readers import open_source; "
        f"print(len(open_source({str(tmp_path)!r})), "
        "{'pyarrow.compute', 'pyarrow.dataset'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "1 set()"

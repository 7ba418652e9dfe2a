"""Damaged and hostile datasets of every format: a right sample or a typed error, in bounds.

The reference is the intact dataset: whatever a verified reader gives out of a damaged one
must be what that has under the same key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzz.datasets import MAX_SAMPLE_BYTES, UNFUZZED, Dataset, Target, made, targets
from fuzz.examples import LONG, SHORT, fuzz
from fuzz.jail import Jail
from fuzz.mutate import File
from hypothesis import strategies as st

from iopipe.readers.formats import all_formats

STORES = ["posix", "mapped", "memory"]
_TARGETS = list(targets())


def test_every_format_has_a_target() -> None:
    named = {target.name.split("-")[0] for target in _TARGETS}
    assert {format.name for format in all_formats()} <= named | UNFUZZED.keys()


@pytest.fixture(scope="module", params=_TARGETS, ids=str)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    target: Target = request.param
    return made(target, tmp_path_factory.mktemp(target.name))


@pytest.fixture
def folder(jail: Jail) -> Path:
    path = jail.folder / "data"
    path.mkdir(exist_ok=True)
    return path


def _verified(target: Target) -> list[str]:
    return ["off", "sample"] if target.is_verifiable else ["off"]


def _read(jail: Jail, folder: Path, dataset: Dataset, **way: str) -> dict[str, Any]:
    return jail.examine(
        operation="read",
        folder=str(folder),
        name=dataset.target.opened,
        options={"max_sample_bytes": MAX_SAMPLE_BYTES, **dataset.target.options},
        expected=dict(dataset.expected),
        has_exact_ranges=dataset.target.has_exact_ranges,
        **way,
    )


@pytest.mark.parametrize("store", STORES)
def test_intact_datasets_are_read_in_the_jail(
    dataset: Dataset, folder: Path, jail: Jail, store: str
) -> None:
    dataset.place(folder, dataset.files[dataset.damaged])
    for verify in _verified(dataset.target):
        answer = _read(jail, folder, dataset, store=store, verify=verify, on_error="raise")
        assert answer == {
            "refused": None,
            "complaints": [],
            "num_samples": len(dataset.expected),
            "found": dataset.expected,
        }


@pytest.mark.parametrize("num_examples", [SHORT, LONG])
def test_damaged_files_are_read_right_or_refused(
    dataset: Dataset, folder: Path, jail: Jail, num_examples: int
) -> None:
    ways = st.fixed_dictionaries(
        {
            "store": st.sampled_from(STORES),
            "on_error": st.sampled_from(["raise", "skip"]),
            "verify": st.sampled_from(_verified(dataset.target)),
        }
    )

    def check(content: File, way: dict[str, str]) -> None:
        dataset.place(folder, content)
        answer = _read(jail, folder, dataset, **way)
        assert not answer["complaints"], "\n".join(answer["complaints"])

    fuzz(check, num_examples, content=dataset.damage(), way=ways)


@pytest.mark.parametrize("num_examples", [SHORT, LONG])
def test_verify_and_inspect_survive_and_find_the_damage(
    dataset: Dataset, folder: Path, jail: Jail, num_examples: int
) -> None:
    is_shard = dataset.damaged.endswith((".tar", ".tfrecord", ".bin", ".arrow", ".parquet"))

    def check(content: File, operation: str) -> None:
        dataset.place(folder, content)
        answer = jail.examine(operation=operation, folder=str(folder))
        assert not answer["complaints"], "\n".join(answer["complaints"])
        if operation == "verify" and is_shard and content != dataset.files[dataset.damaged]:
            assert answer["refused"] or not answer["is_intact"]

    operations = st.sampled_from(["verify", "inspect"])
    fuzz(check, num_examples // 3, content=dataset.damage(), operation=operations)

"""What only maps can be told."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any

import pytest

from iopipe.errors import PipelineError
from iopipe.storage import MappedStore, mapped


@pytest.mark.parametrize(
    ("advise", "expected"),
    [("none", []), ("random", [mmap.MADV_RANDOM]), ("willneed", [mmap.MADV_WILLNEED])],
)
def test_advice_is_given_once_a_map(
    advise: Any, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    class Recording(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            given.append(option)
            super().madvise(option)

    monkeypatch.setattr(mapped.mmap, "mmap", Recording)
    (tmp_path / "a").write_bytes(b"abc")
    store = pickle.loads(pickle.dumps(MappedStore(advise=advise)))
    for _ in range(2):
        assert bytes(store.view(str(tmp_path / "a"))) == b"abc"
    assert given == expected


def test_illegal_options() -> None:
    advise: Any = "often"
    with pytest.raises(PipelineError, match="advise is 'often': give one of none, random"):
        MappedStore(advise=advise)
    with pytest.raises(PipelineError, match="max_maps=0"):
        MappedStore(max_maps=0)

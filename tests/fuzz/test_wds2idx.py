"""DALI's index, damaged: a table of members or a typed error."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.examples import LONG, SHORT, fuzz
from fuzz.hostile import HOSTILE_NAMES, HOSTILE_NUMBERS
from fuzz.jail import Jail
from fuzz.mutate import mutated
from hypothesis import strategies as st

from iopipe.readers.index import build_index
from iopipe.readers.wds2idx import write_wds2idx
from iopipe.readers.writing import DatasetWriter
from iopipe.storage import PosixStore

_WORDS = st.sampled_from([*HOSTILE_NAMES, *map(str, HOSTILE_NUMBERS), "jpg", "²", "9" * 5000])


@st.composite
def _lying(draw: st.DrawFn) -> bytes:
    """Lines of the right form with hostile words."""
    width = draw(st.sampled_from([3, 4]))
    lines = [
        " ".join(draw(st.lists(_WORDS, min_size=width, max_size=width)))
        for _ in range(draw(st.integers(0, 4)))
    ]
    count = draw(st.sampled_from([str(len(lines)), "-1", "²", "9" * 5000]))
    header = f"{draw(st.sampled_from(['v1.1', 'v1.2']))} {count}"
    return "\n".join([header, *lines]).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("wds2idx")
    with DatasetWriter(folder) as writer:
        for number in range(6):
            writer.write({"__key__": f"k{number}", "jpg": bytes(number + 1), "cls": number})
    path: Path = folder / "index.idx"
    write_wds2idx(build_index(PosixStore(), str(folder / "shard-000000.tar")), path)
    return path.read_bytes()


@pytest.mark.parametrize("num_examples", [SHORT, LONG])
def test_a_damaged_index_is_a_table_or_refused(
    content: bytes, jail: Jail, num_examples: int
) -> None:
    path = jail.folder / "x.idx"

    def check(damaged: bytes) -> None:
        path.write_bytes(damaged)
        answer = jail.examine(operation="wds2idx", path=str(path))
        assert not answer["complaints"], "\n".join(answer["complaints"])

    check(content)
    fuzz(check, num_examples, damaged=mutated(content) | _lying())

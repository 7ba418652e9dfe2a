"""For the fuzz tests: one jail for all of them, and a marker for the long ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz.jail import Jail


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs are for those who ask for them: `pytest -m fuzz_long tests/fuzz`."""
    if "fuzz_long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("fuzz_long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def jail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jail]:
    with Jail(tmp_path_factory.mktemp("jail")) as opened:
        yield opened

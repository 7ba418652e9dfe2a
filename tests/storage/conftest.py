"""For the tests of stores: a server of objects, empty and without faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.object_server import ObjectServer


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    server = ObjectServer()
    yield server
    server.close()

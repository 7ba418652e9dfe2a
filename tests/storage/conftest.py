"""For the tests of stores: a server of objects without faults, and a place of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.object_server import ObjectServer
from fakes.places import Place, cache_place, memory_place, objects_place, posix_place, remote_place
from fakes.stores import LOCAL


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    server = ObjectServer()
    yield server
    server.close()


@pytest.fixture(params=[*LOCAL, "memory", "remote", "objects", "cache"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "memory":
        place = memory_place()
    elif request.param == "remote":
        place = remote_place(tmp_path)
    elif request.param == "objects":
        place = objects_place(request.getfixturevalue("server"))
    elif request.param == "cache":
        place = cache_place(request.getfixturevalue("server"), tmp_path)
    else:
        place = posix_place(tmp_path, LOCAL[request.param]())
    yield place
    place.store.close()

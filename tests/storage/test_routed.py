"""Several stores as one: each path from its own, results in order, the first error first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage import MemoryStore
from iopipe.storage.routed import RoutedStore, place_of


class Watched(MemoryStore):
    """Counts what it is asked for, and whether it was closed."""

    def __init__(self, path: str, content: bytes) -> None:
        super().__init__()
        self.write(path, content)
        self.num_asked = self.num_closed = 0

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        self.num_asked += len(requests)
        return super().submit(requests)

    def close(self) -> None:
        self.num_closed += 1


def request(path: str) -> ReadRequest:
    return ReadRequest(path, 1, memoryview(bytearray(3)))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/data/a.tar", "file://"),
        ("file:///data/a.tar", "file://"),
        ("S3://bucket/a/b", "s3://bucket"),
        ("http://host:80/a", "http://host:80"),
    ],
)
def test_places(path: str, place: str) -> None:
    assert place_of(path) == place


def test_each_path_is_read_from_its_store() -> None:
    one, two = Watched("memory://one/a", b"one11"), Watched("memory://two/b", b"two22")
    store = RoutedStore({"memory://one": one, "memory://two": two})
    paths = ["memory://two/b", "memory://one/a", "memory://two/b"]
    requests = [request(path) for path in paths]
    assert store.submit(requests).wait() == [3, 3, 3]
    assert [bytes(each.buffer) for each in requests] == [b"wo2", b"ne1", b"wo2"]
    assert (one.num_asked, two.num_asked) == (1, 2)
    assert store.size("memory://one/a") == 5 and store.glob("memory://two/*") == paths[:1]
    store.close()
    assert one.num_closed == two.num_closed == 1


def test_an_error_is_raised_after_the_others_are_served() -> None:
    one, two = Watched("memory://one/a", b"one11"), Watched("memory://two/b", b"two22")
    store = RoutedStore({"memory://one": one, "memory://two": two})
    good = request("memory://one/a")
    with pytest.raises(NotFoundError, match="two/none"):
        store.submit([request("memory://two/none"), good]).wait()
    assert bytes(good.buffer) == b"ne1"


def test_where_a_store_is_missing_nothing_is_begun() -> None:
    one = Watched("memory://one/a", b"one11")
    store = RoutedStore({"memory://one": one})
    with pytest.raises(StorageError, match="no store serves 'memory://two/b'"):
        store.submit([request("memory://one/a"), request("memory://two/b")])
    assert one.num_asked == 0

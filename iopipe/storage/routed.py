"""Stores side by side, each for the paths of its own place.

Stands where one store stands, for sources that lie in several places.  Invariant: a path is
read from the store of its scheme and host, and from no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest, Reads, Store


def place_of(path: str) -> str:
    """Scheme and host of a URL ('s3://bucket'); 'file://' for all paths of this machine."""
    if "://" not in path:
        return "file://"
    scheme, _, rest = path.partition("://")
    host = "" if scheme.lower() == "file" else rest.partition("/")[0]
    return f"{scheme.lower()}://{host}"


class RoutedStore:
    """A `Store` over others, which it owns: `close` closes them."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        """`stores` by what `place_of` says of their paths."""
        self._stores = dict(stores)

    def size(self, path: str) -> int:
        return self._of(path).size(path)

    def version(self, path: str) -> str:
        return self._of(path).version(path)

    def glob(self, pattern: str) -> list[str]:
        return self._of(pattern).glob(pattern)

    def local_path(self, path: str) -> str | None:
        return self._of(path).local_path(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self._of(path).read_into(path, offset, buffer)

    def view(self, path: str) -> memoryview | None:
        return self._of(path).view(path)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        by_place: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_place.setdefault(place_of(request.path), []).append(number)
        # All stores before the first read: where one is missing, nothing is under way.
        stores = [self._of(requests[numbers[0]].path) for numbers in by_place.values()]
        parts = [
            (numbers, store.submit([requests[at] for at in numbers]))
            for store, numbers in zip(stores, by_place.values(), strict=True)
        ]
        return _RoutedReads(len(requests), parts)

    def describe(self) -> str:
        return "; ".join(f"{place}: {store.describe()}" for place, store in self._stores.items())

    def close(self) -> None:
        for store in self._stores.values():
            store.close()

    def _of(self, path: str) -> Store:
        try:
            return self._stores[place_of(path)]
        except KeyError:
            raise StorageError(
                f"no store serves {path!r}; there are stores for {', '.join(self._stores)}"
            ) from None


class _RoutedReads:
    """`Reads` of several stores, their results in the order of the requests."""

    def __init__(self, num_requests: int, parts: Sequence[tuple[Sequence[int], Reads]]) -> None:
        self._num_requests = num_requests
        self._parts = parts

    def wait(self) -> list[int]:
        num_bytes = [0] * self._num_requests
        errors: dict[int, StorageError] = {}
        for numbers, reads in self._parts:
            try:
                found = reads.wait()
            except StorageError as error:
                errors[min(numbers)] = error
                continue
            for number, count in zip(numbers, found, strict=True):
                num_bytes[number] = count
        if errors:
            raise errors[min(errors)]
        return num_bytes

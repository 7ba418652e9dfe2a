"""Objects from real servers: moto's for quick tests; nginx and Ceph's radosgw (`-m s3`)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from servers.faulty_proxy import FaultyProxy
from servers.running import Bucket, moto, radosgw

from iopipe.bench.nginx import Nginx, nginx
from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage.cache import CachedStore
from iopipe.storage.objects import ObjectStore

pytestmark = pytest.mark.timeout(300)  # the first test that needs it waits for Ceph to start

CONTENT = np.random.default_rng(8).integers(0, 256, 1_000_003, dtype=np.uint8).tobytes()


@pytest.fixture(scope="module")
def moto_bucket() -> Iterator[Bucket]:
    with moto() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def ceph_bucket() -> Iterator[Bucket]:
    with radosgw() as bucket:
        yield bucket


@pytest.fixture(params=["moto", pytest.param("ceph", marks=[pytest.mark.s3])])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return found


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Nginx]:
    with nginx(tmp_path) as server:
        yield server


def opened(bucket: Bucket, hedge_share: float = 0.02, **options: object) -> ObjectStore:
    place = {**bucket.options, **options}
    return ObjectStore(
        bucket.url, options=place, part_bytes=1 << 18, deadline_seconds=30, hedge_share=hedge_share
    )


def fetched(store: Store, path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    buffers = [bytearray(length) for _, length in ranges]
    requests = [
        ReadRequest(path, offset, memoryview(buffer))
        for (offset, _), buffer in zip(ranges, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]


def expected(ranges: list[tuple[int, int]]) -> list[bytes]:
    return [CONTENT[offset : offset + length] for offset, length in ranges]


END = len(CONTENT)
RANGES = [
    (0, 0),
    (0, 1),
    (END - 1, 1),
    (3, 700_000),
    (0, END),
    (END - 3, 9),
    (END, 4),
    (END + 9, 4),
]


def test_ranges_of_s3(bucket: Bucket) -> None:
    path = bucket.put("set/a b+c%25.bin", CONTENT)
    with closing(opened(bucket)) as store:
        assert fetched(store, path, RANGES) == expected(RANGES)
        assert store.size(path) == END and store.version(path).startswith('"')
        with pytest.raises(NotFoundError, match="no such object"):
            store.size(f"{bucket.url}/set/none")


def test_listing_of_s3(bucket: Bucket) -> None:
    for name in ("l/1.tar", "l/2.tar", "l/m/3.tar", "l/x.txt"):
        bucket.put(name, b"")
    with closing(opened(bucket)) as store:
        assert store.glob(f"{bucket.url}/l/*.tar") == [f"{bucket.url}/l/{n}.tar" for n in (1, 2)]
        assert len(store.glob(f"{bucket.url}/l/**/*.tar")) == 3


def test_an_object_of_s3_that_changes(bucket: Bucket) -> None:
    path = bucket.put("changing", CONTENT)
    with closing(opened(bucket)) as store:
        assert fetched(store, path, [(0, 9)]) == [CONTENT[:9]]
        bucket.put("changing", CONTENT[::-1])
        with pytest.raises(StorageError, match="changed since it was opened"):
            fetched(store, path, [(0, 9)])


def test_the_cache_before_s3(bucket: Bucket, tmp_path: Path) -> None:
    path = bucket.put("cached.bin", CONTENT)
    for number in range(2):
        store = CachedStore(opened(bucket), tmp_path, max_bytes=1 << 21, block_bytes=1 << 16)
        assert fetched(store, path, RANGES) == expected(RANGES)
        assert store.num_misses == (0 if number else 16)
        store.close()


@pytest.mark.s3
def test_keys_that_the_server_refuses(ceph_bucket: Bucket) -> None:
    path = ceph_bucket.put("private", b"x")
    with closing(opened(ceph_bucket, secret_access_key="SENTINEL")) as store:
        with pytest.raises(StorageError, match="refuses it; keys were looked for") as caught:
            store.size(path)
    assert "SENTINEL" not in str(caught.value) and "testkey" not in str(caught.value)


@pytest.mark.s3
def test_a_thousand_ranges_of_radosgw(ceph_bucket: Bucket) -> None:
    path = ceph_bucket.put("many.bin", CONTENT)
    draws = random.Random(1)
    ranges = [(draws.randrange(END), draws.randrange(2000)) for _ in range(1000)]
    with closing(opened(ceph_bucket)) as store:
        assert fetched(store, path, ranges) == expected(ranges)


@pytest.mark.s3
def test_ranges_of_nginx(web: Nginx) -> None:
    (web.root / "a.bin").write_bytes(CONTENT)
    with closing(ObjectStore(web.url, part_bytes=1 << 18)) as store:
        assert fetched(store, f"{web.url}a.bin", RANGES) == expected(RANGES)
        (web.root / "new").write_bytes(CONTENT[::-1] + b"x")
        (web.root / "new").rename(web.root / "a.bin")
        with pytest.raises(StorageError, match="changed since it was opened"):
            fetched(store, f"{web.url}a.bin", [(0, 9)])


@pytest.mark.s3
def test_a_throttled_nginx_refuses_few(tmp_path: Path) -> None:
    """200 of 200 at 50 requests a second.  The server counts what it refused; how few that must
    be is asked of `python -m iopipe.bench.objects`, on a machine that does nothing else."""
    with nginx(tmp_path, requests_per_second=50) as web:
        (web.root / "a.bin").write_bytes(CONTENT)
        ranges = [(number * 1000, 1000) for number in range(200)]
        with closing(ObjectStore(web.url)) as store:
            assert fetched(store, f"{web.url}a.bin", ranges) == expected(ranges)
            num_refused = store.num_refused
        assert web.count(206) >= 200 and 0 < web.count(503) == num_refused


FAULTS = [
    *(["503"], ["500"], ["429"], ["reset"], ["cut"]),
    ["", "", "cut", "503", "reset", "502", "504", "cut"],
]


@pytest.mark.s3
@pytest.mark.parametrize("faults", FAULTS, ids="-".join)
def test_faults_between_us_and_radosgw(ceph_bucket: Bucket, faults: list[str]) -> None:
    path = ceph_bucket.put("behind.bin", CONTENT)
    proxy = FaultyProxy(ceph_bucket.endpoint)
    with closing(opened(ceph_bucket, endpoint=proxy.endpoint)) as store:
        proxy.faults.extend(faults)
        ranges = [(5, 900_000), (17, 30_000)]
        assert fetched(store, path, ranges) == expected(ranges)
        assert not proxy.faults
    proxy.close()


@pytest.mark.s3
def test_latency_and_wrong_tags_between_us_and_radosgw(ceph_bucket: Bucket) -> None:
    path = ceph_bucket.put("behind.bin", CONTENT)
    proxy = FaultyProxy(ceph_bucket.endpoint)
    with closing(opened(ceph_bucket, 1.0, endpoint=proxy.endpoint)) as store:
        fetched(store, path, [(number, 1000) for number in range(100)])
        proxy.faults.append("late")
        assert fetched(store, path, [(5, 1000)]) == [CONTENT[5:1005]]
        assert store.num_hedged >= 1
        proxy.released.set()
        proxy.faults.append("tag")
        with pytest.raises(StorageError, match="changed since it was opened"):
            fetched(store, path, [(5, 1000)])
    proxy.close()

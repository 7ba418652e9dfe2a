"""Objects behind a server that fails in all the ways of real ones."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from fakes.object_server import ObjectServer

from iopipe.errors import NotFoundError, PipelineError, StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage import objects
from iopipe.storage.objects import ObjectStore

CONTENT = np.random.default_rng(8).integers(0, 256, 200_001, dtype=np.uint8).tobytes()


@pytest.fixture(autouse=True)
def _filled(server: ObjectServer) -> None:
    server.objects["set/a.bin"] = CONTENT


@pytest.fixture
def store(server: ObjectServer) -> Iterator[ObjectStore]:
    store = ObjectStore(server.url, part_bytes=1 << 16, deadline_seconds=20)
    yield store
    store.close()


def fetched(store: ObjectStore, path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    buffers = [bytearray(b"\xa5" * length) for _, length in ranges]
    requests = [
        ReadRequest(path, offset, memoryview(buffer))
        for (offset, _), buffer in zip(ranges, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    assert all(set(buffer[count:]) <= {0xA5} for buffer, count in zip(buffers, counts, strict=True))
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]


RANGES = [
    *((0, 0), (0, 1), (len(CONTENT) - 1, 1), (5, 70_000), (0, len(CONTENT))),
    *((len(CONTENT) - 3, 10), (len(CONTENT), 4), (len(CONTENT) + 9, 4)),
]


def test_ranges(store: ObjectStore, server: ObjectServer) -> None:
    path = f"{server.url}set/a.bin"
    expected = [CONTENT[offset : offset + length] for offset, length in RANGES]
    assert fetched(store, path, RANGES) == expected
    assert store.size(path) == len(CONTENT) and store.version(path).startswith('"')
    assert store.local_path(path) is None and store.view(path) is None
    sizes = [int(one["range"].split("-")[1]) for one in server.headers if "range" in one]
    assert len(sizes) == 1 + 1 + 2 + 4 + 1  # long ones in parts; nothing beyond the end is asked


def test_an_object_is_looked_for_once(store: ObjectStore, server: ObjectServer) -> None:
    path = f"{server.url}set/a.bin"
    assert fetched(store, path, [(0, 9)] * 60) == [CONTENT[:9]] * 60
    assert len([one for one in server.headers if "range" not in one]) == 1
    for _ in range(2):  # nor is it remembered that it is not there
        with pytest.raises(NotFoundError):
            fetched(store, f"{server.url}set/b.bin", [(0, 9)] * 60)
    server.objects["set/b.bin"] = b"new"
    assert fetched(store, f"{server.url}set/b.bin", [(0, 9)]) == [b"new"]


def test_a_thousand_ranges_at_once(store: ObjectStore, server: ObjectServer) -> None:
    ranges = [(7 * number, 100) for number in range(1000)]
    expected = [CONTENT[offset : offset + length] for offset, length in ranges]
    assert fetched(store, f"{server.url}set/a.bin", ranges) == expected
    assert 1000 <= server.statuses.count(206) <= 1000 + store.num_hedged


@pytest.mark.parametrize(
    "faults",
    [["500"], ["503", "503"], ["429"], ["reset"], ["cut"], ["", "reset", "502", "cut", "504"]],
)
def test_what_passes_is_tried_again(
    store: ObjectStore, server: ObjectServer, faults: list[str]
) -> None:
    path = f"{server.url}set/a.bin"
    server.faults.coming.extend(faults)
    assert fetched(store, path, [(10, 50_000), (100_000, 30)]) == [
        CONTENT[10:50_010],
        CONTENT[100_000:100_030],
    ]


def test_a_throttled_server_is_not_run_over(server: ObjectServer) -> None:
    """200 of 200 at 50 requests a second, most of them at the first try; `test_pace` says how few
    are refused on a clock of its own."""
    server.faults.rate = 50.0
    with_store = ObjectStore(server.url)
    path = f"{server.url}set/a.bin"
    ranges = [(number * 100, 100) for number in range(200)]
    assert fetched(with_store, path, ranges) == [CONTENT[a : a + 100] for a, _ in ranges]
    with_store.close()
    assert server.statuses.count(206) == 200
    assert 0 < with_store.num_refused <= server.statuses.count(503) < 100


def test_an_end_is_put_to_trying(server: ObjectServer) -> None:
    store = ObjectStore(server.url, deadline_seconds=0.5)
    server.faults.coming.extend(["500"] * 100)
    with pytest.raises(StorageError, match=r"within 0\.5 s"):
        store.size(f"{server.url}set/a.bin")
    store.close()


def test_the_time_for_trying_begins_with_the_first_request(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the wait for its turn."""
    now, answers = [0.0], iter([ConnectionError(), "found"])

    class Slow:
        rate, num_refused = None, 0

        def begin(self) -> float:
            now[0] += 100
            return now[0]

        def served(self) -> None: ...

        def failed(self) -> None: ...

    def call(_: float) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr(objects, "time", clock)
    monkeypatch.setattr(store, "_pace", Slow())
    assert store._tried("find", "a", call) == "found"


def test_illegal_options(server: ObjectServer) -> None:
    for options, said in (
        ({"part_bytes": 100}, "part_bytes=100: give a multiple of 4096"),
        ({"concurrency": 0}, "concurrency=0 must be 1 or more"),
        ({"deadline_seconds": 0}, "deadline_seconds=0 must be more than 0"),
        ({"hedge_share": 2}, "hedge_share=2 must be from 0"),
    ):
        with pytest.raises(PipelineError, match=said):
            ObjectStore(server.url, **options)


def test_an_object_that_changes_is_an_error(store: ObjectStore, server: ObjectServer) -> None:
    path = f"{server.url}set/a.bin"
    assert fetched(store, path, [(0, 5)]) == [CONTENT[:5]]
    server.objects["set/a.bin"] = CONTENT[::-1]
    with pytest.raises(StorageError, match="changed since it was opened"):
        fetched(store, path, [(0, 5)])
    other = ObjectStore(server.url)
    assert fetched(other, path, [(0, 5)]) == [CONTENT[::-1][:5]]
    other.close()


@pytest.mark.parametrize("tags", ["weak", "none"])
def test_an_object_that_changes_where_no_strong_tag_says_so(
    store: ObjectStore, server: ObjectServer, tags: Literal["weak", "none"]
) -> None:
    """Weak tags are for caches, and If-Match must not be asked with them (RFC 9110); the time of
    the last change is all that some servers say."""
    server.tags, path = tags, f"{server.url}set/a.bin"
    assert fetched(store, path, [(0, 5), (9, 5)]) == [CONTENT[:5], CONTENT[9:14]]
    assert store.version(path).startswith("W/" if tags == "weak" else f"{len(CONTENT)}-2026")
    server.objects["set/a.bin"] = CONTENT[::-1]
    server.changed_at = "Mon, 23 Nov 2026 10:00:01 GMT"
    with pytest.raises(StorageError, match="changed since it was opened"):
        fetched(store, path, [(0, 5)])


@pytest.mark.parametrize("status", ["401", "403"])
def test_refusals_say_which_chain_was_tried(
    server: ObjectServer, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SENTINELTOKEN")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    store = ObjectStore("s3://b", options=_s3(server))
    server.faults.coming.extend([status])
    with pytest.raises(StorageError, match="the server refuses it; keys were looked for") as caught:
        store.size("s3://b/a.bin")
    said = str(caught.value)
    assert "options given (access_key_id, endpoint, region, secret_access_key, virtual" in said
    assert "no AWS_ACCESS_KEY_ID, " in said and ", AWS_SESSION_TOKEN, " in said
    assert "SENTINEL" not in said and server.statuses == [int(status)]
    store.close()


def test_credentials_that_nobody_has(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata service is asked, and says no; that is no failure of the object."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    place = {"endpoint": server.endpoint, "region": "us-east-1"}
    store = ObjectStore("s3://b", options={**place, "metadata_endpoint": server.endpoint})
    server.faults.coming.extend(["403"] * 3)
    with pytest.raises(StorageError, match="no credentials were found; keys were looked for"):
        store.size("s3://b/a.bin")
    store.close()


def test_names_that_look_like_failures(store: ObjectStore, server: ObjectServer) -> None:
    for name in ("503.tar", "shard-429.tar", "connection reset/timeout.tar", "SlowDown"):
        with pytest.raises(NotFoundError, match="no such object"):
            store.size(f"{server.url}set/{name}")
    assert server.statuses == [404] * 4 and store.num_refused == 0


def test_what_is_not_there(store: ObjectStore, server: ObjectServer) -> None:
    with pytest.raises(NotFoundError, match=r"set/b\.bin.*no such object"):
        store.size(f"{server.url}set/b.bin")
    with pytest.raises(StorageError, match="does not lie in"):
        store.size("http://other.example/x")
    with pytest.raises(StorageError, match="give 0 or more"):
        store.read_into(f"{server.url}set/a.bin", -1, memoryview(bytearray(1)))


def test_a_bucket_is_listed_and_read(server: ObjectServer) -> None:
    for key in ("b/x/1.tar", "b/x/2.tar", "b/x/y/3.tar", "b/z.txt"):
        server.objects[key] = key.encode()
    store = ObjectStore("s3://b", options=_s3(server))
    assert store.glob("s3://b/x/*.tar") == ["s3://b/x/1.tar", "s3://b/x/2.tar"]
    assert store.glob("s3://b/**/*.tar") == [
        *("s3://b/x/1.tar", "s3://b/x/2.tar", "s3://b/x/y/3.tar")
    ]
    server.objects["b/x/.h.tar"] = b""
    assert store.glob("s3://b/x/?.tar") == ["s3://b/x/1.tar", "s3://b/x/2.tar"]
    assert store.glob("s3://b/x/*.tar") == ["s3://b/x/1.tar", "s3://b/x/2.tar"]  # none is hidden
    assert store.glob("s3://b/x?1.tar") == store.glob("s3://b/x[!a]1.tar") == []
    assert store.glob("s3://b/x/[23]*") == ["s3://b/x/2.tar"] and store.glob("s3://b/q*") == []
    assert fetched(store, "s3://b/x/1.tar", [(0, 100)]) == [b"b/x/1.tar"]
    store.close()


def _s3(server: ObjectServer, **options: Any) -> dict[str, Any]:
    keys = {"access_key_id": "AKIASENTINEL", "secret_access_key": "SENTINELSECRET"}
    place = {"endpoint": server.endpoint, "region": "us-east-1"}
    return {**keys, **place, "virtual_hosted_style_request": False, **options}


def test_secrets_are_in_no_message(server: ObjectServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="iopipe")
    server.objects["b/a"] = b"x"
    secrets = ("SENTINELSECRET", "AKIASENTINEL", "SENTINELTOKEN", "SENTINELQUERY")
    store = ObjectStore("s3://b", options=_s3(server, token="SENTINELTOKEN"), deadline_seconds=1)
    said = [repr(store), store.describe()]
    for faults in (["403"], ["500"] * 50, ["reset"] * 50, ["404"]):
        server.faults.coming.clear()
        server.faults.coming.extend(faults)
        with pytest.raises(StorageError) as caught:
            store.size("s3://b/a?X-Amz-Signature=SENTINELQUERY")
        error: BaseException | None = caught.value
        while error is not None:
            said.append(f"{error} {error!r}")
            error = error.__cause__ or error.__context__
    store.close()
    text = "\n".join([*said, caplog.text])
    assert "cannot find" in text and not [one for one in secrets if one in text]


def test_a_query_is_no_part_of_a_name(store: ObjectStore, server: ObjectServer) -> None:
    with pytest.raises(StorageError, match="prefer='fsspec'") as caught:
        store.size(f"{server.url}set/a.bin?X-Amz-Signature=SENTINEL")
    assert "SENTINEL" not in str(caught.value)


def test_another_version_is_no_answer(store: ObjectStore, server: ObjectServer) -> None:
    """Servers and caches that do not look at If-Match."""
    path = f"{server.url}set/a.bin"
    assert fetched(store, path, [(0, 9)]) == [CONTENT[:9]]
    server.faults.coming.extend(["tag"])
    with pytest.raises(StorageError, match="changed since it was opened"):
        fetched(store, path, [(0, 9)])


def test_a_late_request_is_sent_twice(server: ObjectServer) -> None:
    """One of ninety hangs: its second answer comes, and its first one never counts."""
    store = ObjectStore(server.url, hedge_share=1)
    path = f"{server.url}set/a.bin"
    for _ in range(3):
        fetched(store, path, [(number, 1000) for number in range(30)])
    server.faults.coming.append("hang")
    assert fetched(store, path, [(5, 1000)]) == [CONTENT[5:1005]]
    server.released.set()
    store.close()
    assert store.num_hedged >= store.num_hedges_won >= 1


def test_no_hedges_where_none_are_wanted(server: ObjectServer) -> None:
    store = ObjectStore(server.url, hedge_share=0, deadline_seconds=1)
    path = f"{server.url}set/a.bin"
    fetched(store, path, [(number, 1000) for number in range(90)])
    server.faults.coming.extend(["hang"] * 9)
    with pytest.raises(StorageError, match="within 1 s"):
        fetched(store, path, [(5, 1000)])
    server.released.set()
    store.close()
    assert store.num_hedged == 0


def test_connections_are_used_again(server: ObjectServer) -> None:
    store = ObjectStore(server.url, concurrency=4, hedge_share=0)
    fetched(store, f"{server.url}set/a.bin", [(number, 100) for number in range(200)])
    store.close()
    # A client that finds none free dials one, though another may come free first: more than four.
    assert server.num_connections <= 200 // 10


def test_users_in_urls_are_refused() -> None:
    with pytest.raises(StorageError, match="must not hold a user or a password") as caught:
        ObjectStore("https://me:SENTINELSECRET@host/x")
    assert "SENTINEL" not in str(caught.value)
    with pytest.raises(StorageError, match="give a URL of"):
        ObjectStore("ftp://host/x")


def test_a_pickled_store_is_opened_anew(store: ObjectStore, server: ObjectServer) -> None:
    path = f"{server.url}set/a.bin"
    assert fetched(store, path, [(0, 9)]) == [CONTENT[:9]]
    copy = pickle.loads(pickle.dumps(store))
    assert fetched(copy, path, [(3, 9)]) == [CONTENT[3:12]]
    copy.close()


def test_threads_end_with_the_store(server: ObjectServer) -> None:
    store = ObjectStore(server.url)
    fetched(store, f"{server.url}set/a.bin", [(0, 9)] * 50)
    store.close()
    store.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("iopipe-objects")]

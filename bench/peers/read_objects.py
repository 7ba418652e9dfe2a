"""Ranges of one object through boto3, s3fs or obstore:
read_objects.py CLIENT ENDPOINT BLOCK THREADS NUM_BYTES SECONDS.

Each is used as its users are told to where it should be fast: boto3 with as many connections as
threads, s3fs with `cat_ranges`, which has its own loop, obstore from threads.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

BUCKET, KEY = "shards", "object.bin"
KEYS = ("testkey", "testsecret")
THROTTLED, THROTTLED_BLOCK = 200, 64 << 10
"""Ranges, and the bytes of each, that a throttled server is asked for."""


def boto3_reader(endpoint: str, num_threads: int) -> Callable[[list[int], int], int]:
    import boto3
    from botocore.config import Config

    config = Config(
        max_pool_connections=num_threads,
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",
    )
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS[0],
        aws_secret_access_key=KEYS[1],
        region_name="us-east-1",
        config=config,
    )
    pool = ThreadPoolExecutor(num_threads)

    def one(offset: int, block: int) -> int:
        wanted = f"bytes={offset}-{offset + block - 1}"
        return len(client.get_object(Bucket=BUCKET, Key=KEY, Range=wanted)["Body"].read())

    return lambda offsets, block: sum(pool.map(lambda at: one(at, block), offsets))


def s3fs_reader(endpoint: str, num_threads: int) -> Callable[[list[int], int], int]:
    import s3fs

    files = s3fs.S3FileSystem(
        key=KEYS[0],
        secret=KEYS[1],
        client_kwargs={"endpoint_url": endpoint, "region_name": "us-east-1"},
        config_kwargs={"max_pool_connections": num_threads, "s3": {"addressing_style": "path"}},
    )

    def read(offsets: list[int], block: int) -> int:
        ends = [at + block for at in offsets]
        paths = [f"{BUCKET}/{KEY}"] * len(offsets)
        found = files.cat_ranges(paths, offsets, ends, batch_size=num_threads, on_error="raise")
        return sum(map(len, found))

    return read


def obstore_reader(endpoint: str, num_threads: int) -> Callable[[list[int], int], int]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=KEYS[0],
        secret_access_key=KEYS[1],
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    pool = ThreadPoolExecutor(num_threads)

    def one(offset: int, block: int) -> int:
        return len(obstore.get_range(store, KEY, start=offset, length=block))

    return lambda offsets, block: sum(pool.map(lambda at: one(at, block), offsets))


READERS = {"boto3": boto3_reader, "s3fs": s3fs_reader, "obstore": obstore_reader}


def offsets_of(block: int, num_bytes: int) -> list[int]:
    draws = random.Random(1)
    count = THROTTLED if block == THROTTLED_BLOCK else 100_000
    return [draws.randrange(num_bytes // block) * block for _ in range(count)]


def main() -> None:
    name, endpoint = sys.argv[1:3]
    block, num_threads, num_bytes = map(int, sys.argv[3:6])
    row = measured(
        READERS[name](endpoint, num_threads),
        offsets_of(block, num_bytes),
        block,
        batch=4 * num_threads,
        seconds=float(sys.argv[6]),
    )
    print(json.dumps(row))


def measured(
    read: Callable[[list[int], int], int],
    offsets: list[int],
    block: int,
    *,
    batch: int,
    seconds: float,
) -> dict[str, float]:
    """Batches for so long, after one that is not counted; with 0 seconds all, and no other."""
    if seconds:
        read(offsets[:batch], block)  # connections are made
    start, cpu = time.perf_counter(), os.times()
    done = 0
    for first in range(0, len(offsets), batch):
        done += read(offsets[first : first + batch], block)
        if seconds and time.perf_counter() - start > seconds:
            break
    took, after = time.perf_counter() - start, os.times()
    used = after.user + after.system - cpu.user - cpu.system
    return {
        "mib_per_second": done / took / 2**20,
        "cpu_s_per_gib": used / done * 2**30,
        "seconds": took,
        "served": done // block,
    }


if __name__ == "__main__":
    main()

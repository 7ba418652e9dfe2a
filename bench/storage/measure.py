"""One run of one job: lanes that read without a pause, each timing its own submissions.

Stands between `sweep` and `lanes`.  Invariant: from the common start to the end every lane has a
submission under way, so that the queue depth is that of the job; a latency is what the thread
that asked saw.
"""

from __future__ import annotations

import resource
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iopipe.bench.storage.access import Pass
from iopipe.bench.storage.check import Verifier
from iopipe.bench.storage.jobs import Job
from iopipe.bench.storage.lanes import Lane, make_lane
from iopipe.bench.storage.page_cache import resident_fraction
from iopipe.bench.storage.rows import Row, latencies_us
from iopipe.bench.storage.targets import Target
from iopipe.protocols import Store
from iopipe.storage.gds import GdsStore

_MAX_REQUESTS = 1 << 17
"""Made before a run, over all lanes; a run that needs more goes over them again."""
_MIN_REQUESTS = 64


@dataclass(slots=True)
class _Stretch:
    """What a lane did."""

    start_ns: int = 0
    end_ns: int = 0
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    error: BaseException | None = None


class _Run:
    """Common to the lanes of a run."""

    def __init__(self, num_lanes: int, seconds: float, *, repeats: bool) -> None:
        self.barrier = threading.Barrier(num_lanes)
        self.seconds = seconds
        self.repeats = repeats
        """Blocks may be read again: not where the page cache was emptied for them."""
        self.is_over = False


def measure(
    store: Store,
    job: Job,
    target: Target,
    *,
    seconds: float,
    repeat: int,
    verifier: Verifier | None,
) -> Row:
    """Read for `seconds`, or where the cache is cold until each block was read once."""
    lanes = _lanes(store, job, target, seed=repeat)
    before = resident_fraction(target.paths) if target.is_local else None
    run = _Run(len(lanes), seconds, repeats=job.cache != "cold")
    stretches = [_Stretch() for _ in lanes]
    cpu = _cpu_seconds()
    _run_lanes(run, lanes, stretches, verifier)
    cpu = _cpu_seconds() - cpu
    start, end = (min(s.start_ns for s in stretches), max(s.end_ns for s in stretches))
    done = [_requests(job, lane, s) for lane, s in zip(lanes, stretches, strict=True)]
    num_bytes = sum(count for count, _ in done) * job.block_bytes
    return Row(
        target=target.name.partition("?")[0],
        job=job,
        active_path=store.describe(),
        transfer=_transfer(store, job),
        cache=_cache(store, job),
        repeat=repeat,
        num_bytes=num_bytes,
        seconds=(end - start) / 1e9,
        latency_us=latencies_us(np.concatenate([times for _, times in done])),
        cpu_seconds=cpu,
        resident_before=before,
        resident_after=resident_fraction(target.paths) if target.is_local else None,
        verified_bytes=num_bytes if verifier is not None else 0,
    )


def _lanes(store: Store, job: Job, target: Target, *, seed: int) -> list[Lane]:
    """Those that have something to read."""
    num_lanes = job.num_lanes
    most = max(_MIN_REQUESTS, _MAX_REQUESTS // num_lanes) // job.batch * job.batch
    plan = Pass(
        sizes=[size for _, size in target.files],
        block_bytes=job.block_bytes,
        access=job.access,
        seed=seed,
    )
    paths = [path for path, _ in target.files]
    found = []
    for blocks in plan.lanes(num_lanes, most=max(job.batch, most)):
        whole = len(blocks) // job.batch * job.batch or len(blocks)
        if whole:
            found.append(make_lane(store, job, paths, blocks[:whole]))
    return found


def _run_lanes(
    run: _Run,
    lanes: Sequence[Lane],
    stretches: Sequence[_Stretch],
    verifier: Verifier | None,
) -> None:
    threads = [
        threading.Thread(target=_read, args=(run, lane, stretch, verifier), daemon=True)
        for lane, stretch in zip(lanes[1:], stretches[1:], strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        # The first lane runs here: a thread beside one that only waits costs a little.
        _read(run, lanes[0], stretches[0], verifier)
        for thread in threads:
            thread.join()
    except BaseException:  # also where the user has enough
        run.is_over = True
        raise
    finally:
        for thread in threads:
            thread.join()
        for lane in lanes:
            lane.close()
    for stretch in stretches:
        if stretch.error is not None:
            raise stretch.error


def _read(run: _Run, lane: Lane, stretch: _Stretch, verifier: Verifier | None) -> None:
    try:
        run.barrier.wait()
        stretch.start_ns = stretch.end_ns = time.perf_counter_ns()
        until = stretch.start_ns + round(run.seconds * 1e9)
        while not run.is_over:
            if _once(run, lane, stretch, until, verifier) or not run.repeats:
                break
    except threading.BrokenBarrierError:
        return
    except KeyboardInterrupt:
        run.barrier.abort()
        raise
    except BaseException as error:
        run.is_over = True
        run.barrier.abort()
        stretch.error = error


def _once(run: _Run, lane: Lane, stretch: _Stretch, until: int, verifier: Verifier | None) -> bool:
    """The lane's submissions once; whether the time is up.  Here every nanosecond counts."""
    clock, read, note = time.perf_counter_ns, lane.read, stretch.latencies_ns.append
    begun = clock()
    for submission in lane.submissions:
        read(submission)
        ended = clock()
        note(ended - begun)
        if verifier is not None:
            for place in lane.content(submission):
                verifier.check(*place)
            ended = clock()
        begun = ended
        if ended >= until or run.is_over:
            stretch.end_ns = ended
            return True
    stretch.end_ns = begun
    return False


def _requests(job: Job, lane: Lane, stretch: _Stretch) -> tuple[int, npt.NDArray[np.int64]]:
    """How many requests a lane made, and their latencies.

    A store that fans out has all of a submission under way until it ends; the others read one
    after the other, and what is known of each is their mean.
    """
    times = np.asarray(stretch.latencies_ns, np.int64)
    each = lane.requests_each
    return len(times) * each, times if job.fans_out else times // each


def _transfer(store: Store, job: Job) -> str:
    if isinstance(store, GdsStore) and store.path.kind != "gpudirect":
        return "CPU_GPU"
    return job.transfer


def _cache(store: Store, job: Job) -> str:
    if isinstance(store, GdsStore) and store.path.kind == "gpudirect":
        return "bypassed"
    return job.cache


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

"""The engine 'hybrid': CPU cores, the GPU's JPEG engine and its CUDA decoder on one batch.

Stands under `device_engine`.  Invariant: which lane decodes an image follows from its id's
place in the batch and the shares alone; shares move with what was measured, so between two
runs an image may change lanes, and its pixels by the few units that the lanes are apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from iopipe.loaders.decode.balance import Balancer, parted
from iopipe.loaders.decode.images import EncodedImage
from iopipe.loaders.decode.nvimgcodec import Lane, library, why_not
from iopipe.loaders.decode.on_device import Layout, Work
from iopipe.loaders.decode.wanted import Wanted

_NAMES = ("CPU", "JPEG engine", "CUDA decoder")
_FIRST_ON_GPU = 1
_FIRST_SHARES = (0.25, 0.65, 0.10)
"""A guess to begin with; the first batches correct it."""
_ENGINE_THREADS = 3
"""They parse headers for it."""
_CUDA_THREADS = 2
"""For what nvJPEG's CUDA decoder does on the host; the cores are the CPU lane's."""


class Hybrid:
    """A `Decoder` of two lanes on the GPU, whose shares leave the CPU the rest."""

    def __init__(self, device: torch.device, *, num_threads: int) -> None:
        nv = library()
        kinds = nv.BackendKind
        self._engine = Lane(
            [nv.Backend(kinds.HW_GPU_ONLY)],
            device=device,
            num_threads=min(_ENGINE_THREADS, num_threads),
        )
        self._cuda = Lane(
            [nv.Backend(kinds.GPU_ONLY), nv.Backend(kinds.HYBRID_CPU_GPU)],
            device=device,
            num_threads=min(_CUDA_THREADS, num_threads),
        )
        self._works = [Work(device), Work(device)]
        self._pool = ThreadPoolExecutor(2 * len(self._works), thread_name_prefix="iopipe-gpu-lane")
        self._balancer = Balancer(_FIRST_SHARES)
        self._lock = threading.Lock()
        self._num_passed_on = 0

    def why_not(self, image: EncodedImage) -> str | None:
        return why_not(image)

    def share(self, wanted: Wanted, rows: Sequence[int]) -> Sequence[Sequence[int]]:
        with self._lock:
            shares = self._balancer.shares
        return parted(rows, bytes_of(wanted), shares)[_FIRST_ON_GPU:]

    def decode(
        self, wanted: Wanted, layout: Layout, packed: torch.Tensor, work: Work
    ) -> Callable[[float], dict[int, str]]:
        lanes = (self._engine, self._cuda)
        running = [
            self._pool.submit(lane.decode, wanted, layout, rows, packed, its_work)
            for lane, rows, its_work in zip(lanes, layout.groups, self._works, strict=True)
        ]

        def answer(cpu_seconds: float) -> dict[int, str]:
            wait(running)
            (by_engine, engine_seconds), (by_cuda, cuda_seconds) = (one.result() for one in running)
            seconds = (cpu_seconds, engine_seconds, cuda_seconds)
            self._measured(wanted, layout, {*by_engine, *by_cuda}, seconds)
            # What the JPEG engine does not take (progressive ones), the CUDA decoder may.
            with self._lock:
                self._num_passed_on += len(by_engine)
            again, _ = self._cuda.decode(wanted, layout, [*by_engine], packed, self._works[1])
            return {**by_cuda, **again}

        return answer

    def notes(self) -> tuple[str, ...]:
        with self._lock:
            shares, num_passed_on = self._balancer.shares, self._num_passed_on
        named = zip(_NAMES, shares, strict=True)
        shown = ", ".join(f"{name} {100 * share:.0f} %" for name, share in named)
        notes = [f"engine 'hybrid': {shown} of the bytes"]
        if num_passed_on:
            notes.append(
                f"engine 'hybrid' passed {num_passed_on} images on to the CUDA decoder: the JPEG "
                "engine did not take them"
            )
        return tuple(notes)

    def close(self) -> None:
        self._pool.shutdown()
        self._engine.close()
        self._cuda.close()

    def _measured(
        self, wanted: Wanted, layout: Layout, failed: set[int], seconds: tuple[float, float, float]
    ) -> None:
        work = bytes_of(wanted)
        lanes = (layout.cut, *layout.groups)
        done = [sum(work[row] for row in rows if row not in failed) for rows in lanes]
        with self._lock:
            self._balancer.measured(done, seconds)


def bytes_of(wanted: Wanted) -> list[int]:
    """What an image costs: most of it is entropy decoding, which goes with its bytes."""
    return [len(image.content) for image in wanted.images]

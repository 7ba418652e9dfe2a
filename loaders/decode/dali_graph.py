"""A DALI pipeline that decodes the batches it is given, and the one that fits a batch.

Stands under the engine 'dali'.  Invariant: DALI is given views of the bytes that were read,
which stay where they are until it is done with them.

Source: https://docs.nvidia.com/deeplearning/dali, version 2.4.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from iopipe.errors import MissingDependency
from iopipe.loaders.decode.on_device import contents_of
from iopipe.loaders.decode.wanted import Wanted

_LOADS = (0.5, 0.65, 0.8, 0.95)
"""Shares of the JPEG engine that are tried; DALI's own default is the second."""
_TRIAL_SECONDS = 0.25
_found_loads: dict[tuple[str, int], float] = {}
"""By device and threads: what was measured in this process before."""


_SAYS_NOTHING = re.compile(r"no longer valid|C\+\+ context: ")
"""Of the lines of an error."""

Feeds: TypeAlias = Mapping[str, Sequence[npt.NDArray[Any]]]
"""By the name of an external source: an array a sample."""


class Failed(Exception):
    """DALI refused a batch."""


class Graph:
    """A DALI pipeline that decodes batches that are pushed to it; thread-safe.

    Each caller pushes its batch and waits for its turn, so that a batch is decoded while the
    one before is taken over.
    """

    def __init__(self, pipeline: Any, batch_size: int) -> None:
        """`pipeline` is built, takes `batch_size` samples at most and gives one output."""
        self.batch_size = batch_size
        self._pipeline = pipeline
        self._pushing = threading.Lock()
        self._turn = threading.Condition()
        self._num_pushed = 0
        self._num_taken = 0
        self._failure: str | None = None
        self._read: dict[int, Feeds] = {}
        """What DALI may still read; of batches that failed, as long as the pipeline is there."""

    def run(self, feeds: Feeds, take: Callable[[Any], Any], stream: Any = None) -> Any:
        """`take(output)` for the output of a batch, on `stream`; `Failed` where there is none."""
        with self._pushing:
            ticket = self._num_pushed
            self._read[ticket] = feeds
            self._guarded(self._push, feeds)
            self._num_pushed += 1
        with self._turn:
            self._turn.wait_for(lambda: self._num_taken == ticket)
        try:
            (output,) = self._guarded(self._pipeline.share_outputs, stream)
            del self._read[ticket]
            try:
                return take(output)
            finally:
                self._pipeline.release_outputs()
        finally:
            with self._turn:
                self._num_taken += 1
                self._turn.notify_all()

    def fits(self, num_samples: int) -> bool:
        """Whether it takes so many; a pipeline that failed once is not used again."""
        return self._failure is None and num_samples <= self.batch_size

    def close(self) -> None:
        self._pipeline = None
        self._read.clear()

    def _guarded(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self._failure is not None:
            raise Failed(self._failure)
        try:
            return call(*arguments, **options)
        except (RuntimeError, IndexError) as error:
            self._failure = _reason(error)
            raise Failed(self._failure) from error

    def _push(self, feeds: Feeds) -> None:
        for name, arrays in feeds.items():
            self._pipeline.feed_input(name, list(arrays))
        self._pipeline.schedule_run()


def _built(device: torch.device, batch_size: int, num_threads: int, load: float) -> Any:
    fn, _, types = library()

    def graph() -> Any:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        if device.type == "cuda":
            return fn.decoders.image(
                encoded,
                device="mixed",
                output_type=types.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,
                hw_decoder_load=load,
            )
        start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
        shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
        return fn.decoders.image_slice(
            encoded,
            device="cpu",
            start=start,
            shape=shape,
            axis_names="HW",
            output_type=types.RGB,
            adjust_orientation=False,
        )

    return built(graph, device=device, batch_size=batch_size, num_threads=num_threads)


def built(
    graph: Callable[[], Any], *, device: torch.device, batch_size: int, num_threads: int
) -> Any:
    """The DALI pipeline of what `graph` defines, for `Graph`."""
    _, pipeline_def, _ = library()
    pipeline = pipeline_def(graph)(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=(device.index or 0) if device.type == "cuda" else None,
        # Runs are begun by us, one for each batch that is pushed; more depth would make the
        # first one ask for batches that are not there.
        prefetch_queue_depth=1,
    )
    pipeline.build()
    return pipeline


def library() -> tuple[Any, Any, Any]:
    """DALI's `fn`, `pipeline_def` and `types`."""
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise MissingDependency(
            "engine 'dali' needs NVIDIA DALI: pip install 'iopipe[dali]'"
        ) from error
    return fn, pipeline_def, types


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line and not _SAYS_NOTHING.search(line)]
    return lines[-1] if lines else type(error).__name__


class Graphs:
    """The graph that fits a batch, built again where it is too small or has failed."""

    def __init__(self, device: torch.device, num_threads: int) -> None:
        library()  # whether it is there is said now
        self._device = device
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._graph: Graph | None = None
        self.load: float | None = None
        """Of the JPEG engine, once it was measured."""

    def run(
        self, wanted: Wanted, rows: Sequence[int], take: Callable[[Any], Any], stream: Any = None
    ) -> Any:
        contents, boxes = contents_of(wanted, rows), wanted.boxes[list(rows)]
        return self._graph_for(contents, boxes).run(self._feeds(contents, boxes), take, stream)

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()

    def _graph_for(
        self, contents: Sequence[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int64]
    ) -> Graph:
        with self._lock:
            graph = self._graph
            if graph is None or not graph.fits(len(contents)):
                batch_size = max(len(contents), graph.batch_size if graph else 0)
                if self._device.type == "cuda" and self.load is None:
                    self.load = self._measured_load(contents, boxes)
                graph = self._graph = self._new(batch_size, self.load or 0.65)
            return graph

    def _new(self, batch_size: int, load: float) -> Graph:
        return Graph(_built(self._device, batch_size, self._num_threads, load), batch_size)

    def _feeds(
        self, contents: Sequence[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int64]
    ) -> Feeds:
        if self._device.type == "cuda":
            return {"encoded": contents}
        starts_and_shapes = boxes.astype(np.int32)
        return {
            "encoded": contents,
            "start": list(starts_and_shapes[:, :2]),
            "shape": list(starts_and_shapes[:, 2:]),
        }

    def _measured_load(
        self, contents: Sequence[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int64]
    ) -> float:
        """The share of the JPEG engine with which this batch is decoded fastest here."""
        key = str(self._device), self._num_threads
        if key not in _found_loads:
            rates = {load: self._rate(load, contents, boxes) for load in _LOADS}
            _found_loads[key] = max(rates, key=lambda load: rates[load])
        return _found_loads[key]

    def _rate(
        self,
        load: float,
        contents: Sequence[npt.NDArray[np.uint8]],
        boxes: npt.NDArray[np.int64],
    ) -> float:
        graph, feeds = self._new(len(contents), load), self._feeds(contents, boxes)
        try:
            graph.run(feeds, len)  # warm
            start, number = time.perf_counter(), 0
            while time.perf_counter() - start < _TRIAL_SECONDS:
                graph.run(feeds, len)
                number += 1
            return number / (time.perf_counter() - start)
        finally:
            graph.close()

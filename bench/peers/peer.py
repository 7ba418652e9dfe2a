"""What every script of this folder does besides its loader: options, clock, loose files.

Stands under those scripts, which run in Pythons without iopipe; so the clock, bench/measure.py,
is loaded by its path.  A script is called with --prepare first, which may write the dataset in
its own format beside the others.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any


def _clock() -> Any:
    spec = importlib.util.spec_from_file_location(
        "measure", Path(__file__).resolve().parents[1] / "measure.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loose_files(dataset: Path) -> list[Path]:
    """The images that `iopipe.bench.loader` wrote, in its order."""
    return sorted((dataset / "loose").glob("*.jpg"))


def run(
    batches: Callable[[argparse.Namespace], Iterator[Any]],
    prepare: Callable[[Path], None] = lambda dataset: None,
) -> None:
    """`batches` goes on without end over uint8 pixels [b, size, size, 3], as torch's or
    numpy's arrays."""
    clock = _clock()
    parser = argparse.ArgumentParser()
    clock.add_options(parser)
    parser.add_argument("--prepare", action="store_true", help="write the dataset and stop")
    options = parser.parse_args()
    options.dataset = Path(options.dataset)
    if options.prepare:
        prepare(options.dataset)
        return

    def counted() -> Generator[tuple[int, int], None, None]:
        for pixels in batches(options):
            assert pixels.shape[1:] == (options.size, options.size, 3), pixels.shape
            yield len(pixels), pixels.nbytes

    clock.show(clock.measured(counted, options))

"""Writes MDS shards with the real writer of mosaicml-streaming, in a process of its own.

The package's own `__init__` imports torchvision and transformers, which the writer does not
need: its parents are stood in for by empty packages with the right paths.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np


def main(folder: str, compression: str, pickled: bool) -> None:
    spec = importlib.util.find_spec("streaming")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    for name in ("", ".base", ".base.format", ".base.format.base"):
        package = types.ModuleType(f"streaming{name}")
        package.__path__ = [str(root / name.lstrip(".").replace(".", "/"))]
        sys.modules[package.__name__] = package
    writer_class = importlib.import_module("streaming.base.format.mds.writer").MDSWriter
    columns = {
        "image": "bytes",
        "label": "int",
        "score": "float32",
        "text": "str",
        "meta": "json",
        "box": "ndarray:int16:2,2",
        "ids": "ndarray:uint16",
        "any": "ndarray",
    }
    if pickled:
        columns["evil"] = "pkl"
    options = {"compression": compression} if compression != "none" else {}
    with writer_class(out=folder, columns=columns, size_limit=4000, **options) as writer:
        for number in range(30):
            writer.write(sample(number) | ({"evil": {1}} if pickled else {}))


def sample(number: int) -> dict[str, object]:
    return {
        "image": bytes([number]) * (number * 10 + 1),
        "label": -number,
        "score": np.float32(number / 3),
        "text": f"täxt {number}",
        "meta": {"n": [number]},
        "box": np.full((2, 2), number, np.int16),
        "ids": np.arange(number + 1, dtype=np.uint16),
        "any": np.full((1, number + 1), number, np.float64),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "pickled")

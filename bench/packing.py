"""What packing and bucketing cost, and how much padding they save, on the lengths of real texts.

`python -m iopipe.bench.packing --texts DIR --json FILE`: documents are a few lines each
and a token is a byte; methods take turns, and padding is counted in batches as they come.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import iopipe
from iopipe import OpenOptions, Pipeline
from iopipe.bench.harness import write_results
from iopipe.packing import Method, Packing, pack_group
from iopipe.protocols import Int64Array

_LOOK_AHEAD = 1024
_SEQUENCE = 2048
_BATCH = 32
_LINES_A_DOCUMENT = (1, 2, 5, 13)


def corpus(texts: Path, to: Path) -> Int64Array:
    """Write documents of one and more lines, each ended by 0; their lengths."""
    lines = [
        line
        for path in sorted(texts.glob("*.txt"))
        for line in path.read_text().splitlines()
        if line.strip()
    ]
    documents, first, turn = [], 0, 0
    while first < len(lines):
        num = _LINES_A_DOCUMENT[turn % len(_LINES_A_DOCUMENT)]
        documents.append("\n".join(lines[first : first + num]).encode() + b"\0")
        first, turn = first + num, turn + 1
    np.frombuffer(b"".join(documents), np.uint8).astype(np.uint16).tofile(to)
    return np.array([len(document) for document in documents], np.int64)


def microseconds_a_document(lengths: Int64Array, method: Method) -> float:
    """To pack all of them, group by group."""
    packing = Packing(sequence_length=_SEQUENCE, method=method)
    start = time.perf_counter()
    for first in range(0, len(lengths), _LOOK_AHEAD):
        pack_group(lengths[first : first + _LOOK_AHEAD], packing)
    return 1e6 * (time.perf_counter() - start) / len(lengths)


def padding(pipeline: Pipeline) -> float:
    """The share of places in an epoch's batches that hold no token."""
    tokens = places = 0
    with pipeline.run() as run:
        for batch in run:
            places += batch["tokens"].numel()
            lengths = batch.get("tokens_lengths")
            tokens += int((batch["document_ids"] >= 0).sum() if lengths is None else lengths.sum())
    return 1 - tokens / places


def ways(source: Any) -> dict[str, Pipeline]:
    """Batches of the same documents, put together in different ways."""
    shuffled = iopipe.read(source).shuffle(1)
    pad = {"tokens": 0}
    return {
        "padded batches": shuffled.batch(_BATCH, pad=pad),
        "padded batches, bucketed": shuffled.bucket(_BATCH).batch(_BATCH, pad=pad),
        "packed, concat": shuffled.pack(_SEQUENCE, method="concat").batch(_BATCH),
        "packed, best_fit": shuffled.pack(_SEQUENCE, method="best_fit").batch(_BATCH),
    }


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "tokens.bin")
        lengths = corpus(options.texts, path)
        source = iopipe.open_source(path, options=OpenOptions(eos_token=0))
        rows: list[dict[str, Any]] = [
            {"name": way, "padding_share": padding(pipeline)}
            for way, pipeline in ways(source).items()
        ]
    many = np.tile(lengths, -(-100_000 // len(lengths)))
    methods: tuple[Method, ...] = ("concat", "best_fit")
    rounds = [
        [microseconds_a_document(many, method) for method in methods] for _ in range(options.rounds)
    ]
    for row, found in zip(rows[2:], zip(*rounds, strict=True), strict=True):
        row["microseconds_a_document"] = _summary(found)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.packing --texts DIR --rounds {options.rounds} --json FILE",
        cache={"state": "no storage"},
        rows=[{"documents": len(lengths), "tokens": int(lengths.sum()), **row} for row in rows],
    )
    for row in rows:
        print(f"{row['name']:26} {100 * row['padding_share']:5.1f} % padding")


def _summary(found: Sequence[float]) -> dict[str, float]:
    return {"median": median(found), "min": min(found), "max": max(found)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()

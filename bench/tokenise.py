"""How fast a job turns text into token shards, against the tokenizer library by itself.

`python -m iopipe.bench.tokenise --texts DIR --json FILE`: trains a small byte-pair tokenizer on
the texts of DIR, cuts them into documents, and runs both in turns, each on all cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import iopipe
from iopipe.bench.harness import Contestant, interleave, residency, write_results
from iopipe.jobs import ShardOptions, TransformSpec, shard

_VOCABULARY = 16_000
_BAR = 0.9


def prepare(texts: Path, folder: Path, *, repeats: int) -> int:
    """Documents of twenty lines as shards, and a tokenizer; the number of bytes of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = [line for path in sorted(texts.glob("*.txt")) for line in path.open()]
    documents = ["".join(lines[first : first + 20]) for first in range(0, len(lines), 20)]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=_VOCABULARY))
    made.save(str(folder / "tokenizer.json"))
    with iopipe.DatasetWriter(folder / "texts", max_samples=4000) as writer:
        for repeat in range(repeats):
            for number, document in enumerate(documents):
                # Not the same text again: the tokenizer remembers words, not documents.
                writer.write({"__key__": f"{repeat:03d}-{number:06d}", "txt": document})
    return repeats * sum(len(document.encode()) for document in documents)


def run_library(folder: Path) -> dict[str, float]:
    """One call of `encode_batch_fast` over all documents, already in memory."""
    from tokenizers import Tokenizer

    store = iopipe.PosixStore()
    source = iopipe.open_source(folder / "texts", store=store)
    column = source.samples(range(len(source)), store).columns["txt"]
    documents = [str(text, "utf-8") for text in column]
    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded.encode_batch_fast(documents[:100])
    start = time.perf_counter()
    encoded = loaded.encode_batch_fast(documents, add_special_tokens=False)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "num_tokens": sum(len(encoding.ids) for encoding in encoded)}


def run_job(folder: Path, workers: int) -> dict[str, float]:
    """The whole job, from tar shards to token shards, its start included."""
    options = {"tokenizer": str(folder / "tokenizer.json")}
    spec = TransformSpec(name="tokenise", options=options)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        shard(
            folder / "texts",
            out,
            ShardOptions(format="tokens", transforms=(spec,), shard_samples=4000),
            num_workers=workers,
        )
        seconds = time.perf_counter() - start
        source = iopipe.open_source(out)
        tokens = int(source.lengths.sum())  # type: ignore[attr-defined]
    return {"seconds": seconds, "num_tokens": tokens}


def main() -> None:
    """Prepare, run both in turns, write the results; or one run of one of them."""
    options = _options()
    if options.way:
        folder = Path(options.folder)
        made = run_library(folder) if options.way == "library" else run_job(folder, options.workers)
        print(json.dumps(made))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = prepare(options.texts, folder, repeats=options.repeats)
        command = (sys.executable, "-m", "iopipe.bench.tokenise", "--folder", name)
        rest = ("--workers", str(options.workers))
        written = sorted((folder / "texts").glob("*.tar"))
        before = residency(written)
        results = interleave(
            [Contestant(way, (*command, "--way", way, *rest)) for way in ("library", "job")],
            num_rounds=options.rounds,
            on_run=_show,
        )
        after = residency(written)
    pairs = zip(results["library"].rows, results["job"].rows, strict=True)
    rounds = [library["seconds"] / job["seconds"] for library, job in pairs]
    ratio = {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds)}
    write_results(
        options.json,
        command=f"python -m iopipe.bench.tokenise --texts DIR --repeats {options.repeats} "
        f"--workers {options.workers} --rounds {options.rounds} --json FILE",
        cache={"state": "warm", "before": before, "after": after},
        rows=[
            {"name": name, "text_bytes": num_bytes, **runs.summary(), "runs": runs.rows}
            for name, runs in results.items()
        ]
        + [{"name": "job against library", "ratio": ratio, "bar": _BAR}],
    )
    print(f"job against library {ratio['median']:.2f}, the bar is {_BAR}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=("library", "job"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.way and None in (options.texts, options.json):
        parser.error("--texts DIR and --json FILE are needed")
    return options


def _show(name: str, row: Mapping[str, float]) -> None:
    print(f"{name:8} {row['seconds']:6.2f} s, foreign {row['foreign_cores']:.2f}", flush=True)


if __name__ == "__main__":
    main()

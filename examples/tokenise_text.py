"""Text to token shards for language models, and windows read back in shuffled order.

`python examples/tokenise_text.py [FILE]` (pip install 'iopipe[tokenise]'); without a file it
takes the sources of Python's own json package.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import iopipe
from iopipe.jobs import ShardOptions, TransformSpec, shard

END = "<|end|>"


def documents(path: Path | None) -> list[str]:
    """Paragraphs of a file, or of the modules of a package."""
    paths = [path] if path else sorted(Path(json.__file__).parent.glob("*.py"))
    text = "\n\n".join(part.read_text() for part in paths)
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]


def train_tokenizer(texts: list[str], path: Path) -> Tokenizer:
    """A byte-level BPE tokenizer; any file in the tokenizers' format will do instead."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    return tokenizer


def main(path: Path | None = None) -> float:
    """The share of documents that the token shards hold as the tokenizer gives them."""
    texts = documents(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer(texts, folder / "tokenizer.json")
        with iopipe.DatasetWriter(folder / "texts") as writer:
            for number, text in enumerate(texts):
                writer.write({"__key__": f"{number:06d}", "txt": text})
        options = {"tokenizer": str(folder / "tokenizer.json"), "end_of_text": END}
        tokenise = TransformSpec(name="tokenise", options=options)
        job = ShardOptions(format="tokens", transforms=(tokenise,), shard_samples=100)
        report = shard(folder / "texts", folder / "tokens", job, num_workers=1)
        print(f"{report.num_samples} documents in {report.num_shards} shards")
        source = iopipe.open_source(folder / "tokens", verify="sample")
        with closing(iopipe.open_store(name)) as store:
            column = source.samples(range(len(source)), store).columns["tokens"]
            found = [np.asarray(tokens).tolist() for tokens in column]
    end = tokenizer.token_to_id(END)
    expected = [[*tokenizer.encode(text).ids, end] for text in texts]
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(texts)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))

"""Documents of unlike length to full sequences for a language model, resumed and audited.

`python examples/pack_tokens.py [FILE]`; without a file it takes the sources of Python's own json
package.  A token is a byte here; 0 ends a document.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import iopipe
from iopipe import OpenOptions


def write_tokens(path: Path | None, to: Path) -> None:
    """Paragraphs of a file, or of the modules of a package, one after the other."""
    paths = [path] if path else sorted(Path(json.__file__).parent.glob("*.py"))
    text = "\n\n".join(part.read_text() for part in paths)
    documents = [part.encode() + b"\0" for part in text.split("\n\n") if part.strip()]
    np.frombuffer(b"".join(documents), np.uint8).astype(np.uint16).tofile(to)


def train_step(batch: dict[str, torch.Tensor]) -> float:
    """A bigram model's loss: labels of -100, at the ends of documents and in padding, do not
    count.  `cu_seqlens` is what variable-length attention takes, to stay within documents."""
    tokens, labels = batch["tokens"], batch["labels"]
    logits = torch.nn.functional.one_hot(tokens, 256).float()
    assert int(batch["cu_seqlens"][-1]) == tokens.numel()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def main(path: Path | None = None) -> float:
    """Sequences that an audit proves delivered exactly once, as a share of those packed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(path, folder / "tokens.bin")
        source = iopipe.open_source(folder / "tokens.bin", options=OpenOptions(eos_token=0))
        print(f"{len(source)} documents")
        pipeline = iopipe.read(source).shuffle(seed=1).pack(512).batch(8)
        print(pipeline.describe())
        with pipeline.run(ledger=folder / "ledger") as run:
            losses = [train_step(next(run)) for _ in range(3)]
            state = run.state_dict()
        with pipeline.run(ledger=folder / "ledger") as run:  # another day
            run.load_state_dict(state)
            losses += [train_step(batch) for batch in run]
        print(f"{len(losses)} steps, first loss {losses[0]:.2f}")
        report = iopipe.audit_ledgers([folder / "ledger"], source=source)
        (epoch,) = report.epochs
        wrong = len(epoch.missing) + len(epoch.double)
        return 1 - wrong / epoch.num_delivered if report.is_exact else 0.0


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))

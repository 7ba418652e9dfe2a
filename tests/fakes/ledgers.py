"""Ledgers that say something else than they did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from iopipe.ledger import LedgerReader, LedgerWriter, Record


def rewrite(path: Path, change: Callable[[list[Record]], list[Record]]) -> None:
    """The ledger again, with `change(records)` for its records."""
    reader = LedgerReader(path)
    records = change(list(reader.records()))
    path.unlink()
    with LedgerWriter(path.parent, reader.header) as writer:
        for record in records:
            writer.append(record)

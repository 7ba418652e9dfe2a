"""Words that come from outside, made fit for a terminal.

Stands under everything that prints.  Invariant: no control character gets through.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Control characters of a hostile name must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

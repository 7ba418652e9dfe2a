"""Shell patterns over names that are no files of this machine.

Stands under the stores whose listing knows none.  Invariant: what matches is what
`glob.glob(recursive=True)` would find among files of these names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """`*`, `?` and `[...]` stop at `/`, `**` goes down any number of folders, and hidden names
    stay hidden."""
    return _parts_match(name.split("/"), pattern.split("/"))


def _parts_match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the components of a path match those of a pattern, one by one."""
    if not names or not patterns:
        return not names and not patterns
    rest = names[1:]
    if patterns[0] != "**":
        return _part_matches(names[0], patterns[0]) and _parts_match(rest, patterns[1:])
    visible = not names[0].startswith(".")
    return (
        _parts_match(names, patterns[1:])
        or (visible and _parts_match(rest, patterns))
        or (visible and not rest and len(patterns) == 1)
    )


def _part_matches(name: str, pattern: str) -> bool:
    hidden = name.startswith(".") and not pattern.startswith(".")
    return fnmatchcase(name, pattern) and not (hidden and re.search(r"[*?\[]", pattern))

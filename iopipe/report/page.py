"""The frame of every page: head, style, the rule of what may run, and how files are written.

Stands under `html` and `comparison`.  Invariant: a page loads nothing, and runs at most the
one script whose hash its Content-Security-Policy names; the parts given are escaped already.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from iopipe.report.style import CSS


def page(title: str, parts: Iterable[str], *, script: str = "", data: Any = None) -> str:
    """The whole document.  `data` lies in it as JSON, in the element `data`, for `script`.

    Source of the policy: W3C, Content Security Policy Level 3, hash sources.
    """
    scripts = f"'{_hash(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; style-src '{_hash(CSS)}'; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )
    content = f'<script type="application/json" id="data">{_embedded(data)}</script>\n'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + (f"\n{content}<script>{script}</script>" if script else "")
        + "\n</body>\n</html>\n"
    )


def write_at_once(path: str | os.PathLike[str], text: str) -> None:
    """A reader finds the old file or the new one, never half of it.

    UTF-8; of names that are none, the bytes are written as Python writes them: \\udcff.
    """
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: Any) -> str:
    """JSON in which no markup can begin: a script element ends at the first '</script'."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

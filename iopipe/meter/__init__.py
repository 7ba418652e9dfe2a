"""The starvation meter; `iopipe.meter(loader)` measures any loader.

Stands beside the flow.  Invariant: this package is also the function of that name, since the
public name and the room are the same word.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that can be called: see "Customizing module attribute access" in Python's
    reference, which allows a module's class to be set."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See `iopipe.meter.watched.meter`."""
        from iopipe.meter.watched import meter

        return meter(*arguments, **options)


sys.modules[__name__].__class__ = _Callable

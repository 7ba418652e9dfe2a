"""The user's own function in a job: filter, re-encode, split into several.

A transform.  Invariant: the function is found by import, never by evaluating text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from iopipe.errors import DataError, PipelineError
from iopipe.jobs.transform import Outcome, Sample, Transform


def make_map(function: str) -> Transform:
    """A transform that calls `function` ('module:name') for every sample.

    It gets a dict and returns one, or None to leave the sample out, or yields several, whose
    keys get a number at the end where they are not changed.  It raises `DataError` for a
    sample that is to be rejected; any other exception ends the job.
    """
    called = find_function(function)

    def transform(samples: Sequence[Sample]) -> list[Outcome]:
        return [_outcome(called, sample) for sample in samples]

    return transform


def find_function(name: str) -> Callable[[Sample], Any]:
    """Import 'module:name'."""
    module, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier():
        raise PipelineError(f"{name!r} names no function; write module:function")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"cannot import {error.name!r} for {name!r}; is its folder on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise PipelineError(f"module {module!r} has no {attribute!r}") from error
    if not callable(found):
        raise PipelineError(f"{name!r} is a {type(found).__name__}, no function")
    called: Callable[[Sample], Any] = found
    return called


def _outcome(function: Callable[[Sample], Any], sample: Sample) -> Outcome:
    try:
        made = function(dict(sample))
        if made is None:
            return []
        if isinstance(made, Mapping):
            return [_keyed(made, sample["__key__"])]
        if isinstance(made, Iterable):
            several = list(made)
            if all(isinstance(one, Mapping) for one in several):
                return _numbered(several, sample["__key__"])
    except DataError as error:
        return error
    raise PipelineError(
        f"the map function returned a {type(made).__name__}; return a dict, None, or yield dicts"
    )


def _keyed(sample: Mapping[str, Any], key: str) -> Sample:
    return {**sample, "__key__": str(sample.get("__key__", key))}


def _numbered(made: list[Mapping[str, Any]], key: str) -> list[Sample]:
    samples = [_keyed(sample, key) for sample in made]
    for number, sample in enumerate(samples):
        if sample["__key__"] == key:
            sample["__key__"] = f"{key}-{number:04d}"
    return samples

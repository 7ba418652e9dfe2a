"""A worker whose store cannot be opened says why, to whoever asks it for samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes.source import NumberSource

from iopipe import Samples, StorageError
from iopipe.loaders.workers import pool
from iopipe.loaders.workers.program import Program


def _refuses() -> Any:
    raise StorageError("no credentials for this bucket")


def test_a_store_that_cannot_be_opened_says_why() -> None:
    workers = pool.WorkerPool(
        Program(source=NumberSource(4), open_store=_refuses, stages=(), seed=0), num_workers=1
    )
    wanted = Samples(ids=np.arange(2), keys=["", ""], columns={})
    for _ in range(2):
        with pytest.raises(StorageError, match="no credentials"):
            workers.apply(wanted)
    workers.close()

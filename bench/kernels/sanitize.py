"""Every kernel on a tiny problem, for NVIDIA's compute-sanitizer to watch.

    compute-sanitizer --tool memcheck python -m iopipe.bench.kernels.sanitize
    compute-sanitizer --tool racecheck python -m iopipe.bench.kernels.sanitize

Stands beside the cases that are timed.  Invariant: whatever is launched under the tool is
compared with plain torch afterwards, and an exit code of 0 says that all agreed; the tool's
own `--error-exitcode` says the rest.

torch's allocator gives out pieces of large blocks, in which nothing is out of bounds for the
tool: it is switched off here, so that every tensor is an allocation of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch

from iopipe.errors import DataError, PipelineError
from iopipe.kernels.checksum import crc32c
from iopipe.kernels.checksum_twin import crc32c_twin
from iopipe.kernels.columns import EncodedColumn, decode_column
from iopipe.kernels.columns_twin import decode_column_twin
from iopipe.kernels.image import transform_images
from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages
from iopipe.kernels.image_twin import transform_images_twin
from iopipe.kernels.ragged import gather_rows, join_rows, pad, unpad
from iopipe.kernels.ragged_twin import gather_rows_twin, join_rows_twin, pad_twin, unpad_twin

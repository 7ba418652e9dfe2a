"""GPU kernels of the input path, each with a naive twin beside it.

Stands after the transfer in the flow: bytes that are on the device become what a model
takes.  Invariant: a kernel never waits for the device, and allocates its result and little else.
"""

from iopipe.errors import MissingDependency

try:
    import triton  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependency("iopipe.kernels needs triton: pip install 'iopipe[kernels]'") from error

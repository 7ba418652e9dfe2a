"""iopipe keeps GPUs fed, and says why when they are not.

Public names are resolved when first used (PEP 562): `import iopipe` imports neither torch
nor pyarrow, reads no environment and starts nothing.
"""

__version__ = "0.1.0"

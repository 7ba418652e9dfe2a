"""iopipe keeps GPUs fed, and says why when they are not.

Public names are resolved when first used (PEP 562): `import iopipe` imports neither torch
nor pyarrow, reads no environment and starts nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from iopipe.audit import AuditReport as AuditReport
    from iopipe.audit import audit_ledgers as audit_ledgers
    from iopipe.autotune.budget import Budget as Budget
    from iopipe.autotune.setting import Setting as Setting
    from iopipe.ceiling import measure_storage as measure_storage
    from iopipe.errors import DataError as DataError
    from iopipe.errors import ErrorBudgetExceeded as ErrorBudgetExceeded
    from iopipe.errors import IopipeError as IopipeError
    from iopipe.errors import MissingDependency as MissingDependency
    from iopipe.errors import NotFoundError as NotFoundError
    from iopipe.errors import PipelineError as PipelineError
    from iopipe.errors import StateError as StateError
    from iopipe.errors import StorageError as StorageError
    from iopipe.errors import WorkerError as WorkerError
    from iopipe.loaders.dataloader import DataLoader as DataLoader
    from iopipe.loaders.external import external_source as external_source
    from iopipe.loaders.frameworks import accelerate_loader as accelerate_loader
    from iopipe.loaders.frameworks import which_loader as which_loader
    from iopipe.loaders.mix import mix as mix
    from iopipe.loaders.read import read as read
    from iopipe.loaders.workers.samplers import OrderSampler as OrderSampler
    from iopipe.loaders.workers.seeds import sample_generator as sample_generator
    from iopipe.meter.meter import Meter as Meter
    from iopipe.meter.report import Report as Report
    from iopipe.meter.watched import meter as meter
    from iopipe.pipeline import Pipeline as Pipeline
    from iopipe.progress import merge_states as merge_states
    from iopipe.protocols import Samples as Samples
    from iopipe.protocols import Source as Source
    from iopipe.protocols import Store as Store
    from iopipe.readers import ArrowSource as ArrowSource
    from iopipe.readers import DatasetWriter as DatasetWriter
    from iopipe.readers import OpenOptions as OpenOptions
    from iopipe.readers import WebDatasetSource as WebDatasetSource
    from iopipe.readers import WriteOptions as WriteOptions
    from iopipe.readers import inspect_dataset as inspect_dataset
    from iopipe.readers import open_source as open_source
    from iopipe.readers import verify_dataset as verify_dataset
    from iopipe.readers import write_arrow as write_arrow
    from iopipe.report import write_comparison as write_comparison
    from iopipe.report import write_html as write_html
    from iopipe.report import write_trace as write_trace
    from iopipe.run import Run as Run
    from iopipe.stages import Clip as Clip
    from iopipe.stages import ImageOptions as ImageOptions
    from iopipe.storage import DirectStore as DirectStore
    from iopipe.storage import MappedStore as MappedStore
    from iopipe.storage import MemoryStore as MemoryStore
    from iopipe.storage import PosixStore as PosixStore
    from iopipe.storage import UringStore as UringStore
    from iopipe.storage import open_store as open_store
    from iopipe.storage.cache import CachedStore as CachedStore
    from iopipe.storage.device import DeviceRead as DeviceRead
    from iopipe.storage.gds import GdsStore as GdsStore
    from iopipe.topology import Binding as Binding
    from iopipe.topology import Topology as Topology
    from iopipe.topology import apply_binding as apply_binding
    from iopipe.topology import plan_binding as plan_binding
    from iopipe.topology import read_topology as read_topology

_HOMES = {
    "ArrowSource": "iopipe.readers",
    "AuditReport": "iopipe.audit",
    "Binding": "iopipe.topology",
    "Budget": "iopipe.autotune.budget",
    "CachedStore": "iopipe.storage.cache",
    "Clip": "iopipe.stages",
    "DataError": "iopipe.errors",
    "DataLoader": "iopipe.loaders.dataloader",
    "DatasetWriter": "iopipe.readers",
    "DeviceRead": "iopipe.storage.device",
    "DirectStore": "iopipe.storage",
    "ErrorBudgetExceeded": "iopipe.errors",
    "GdsStore": "iopipe.storage.gds",
    "ImageOptions": "iopipe.stages",
    "IopipeError": "iopipe.errors",
    "MappedStore": "iopipe.storage",
    "MemoryStore": "iopipe.storage",
    "Meter": "iopipe.meter.meter",
    "MissingDependency": "iopipe.errors",
    "NotFoundError": "iopipe.errors",
    "OpenOptions": "iopipe.readers",
    "Pipeline": "iopipe.pipeline",
    "PipelineError": "iopipe.errors",
    "OrderSampler": "iopipe.loaders.workers.samplers",
    "PosixStore": "iopipe.storage",
    "Report": "iopipe.meter.report",
    "Run": "iopipe.run",
    "Samples": "iopipe.protocols",
    "Source": "iopipe.protocols",
    "Setting": "iopipe.autotune.setting",
    "StateError": "iopipe.errors",
    "StorageError": "iopipe.errors",
    "Store": "iopipe.protocols",
    "Topology": "iopipe.topology",
    "UringStore": "iopipe.storage",
    "WebDatasetSource": "iopipe.readers",
    "WorkerError": "iopipe.errors",
    "WriteOptions": "iopipe.readers",
    "accelerate_loader": "iopipe.loaders.frameworks",
    "apply_binding": "iopipe.topology",
    "audit_ledgers": "iopipe.audit",
    "external_source": "iopipe.loaders.external",
    "inspect_dataset": "iopipe.readers",
    "measure_storage": "iopipe.ceiling",
    "merge_states": "iopipe.progress",
    "meter": "iopipe.meter",
    "mix": "iopipe.loaders.mix",
    "open_source": "iopipe.readers",
    "open_store": "iopipe.storage",
    "plan_binding": "iopipe.topology",
    "read": "iopipe.loaders.read",
    "read_topology": "iopipe.topology",
    "sample_generator": "iopipe.loaders.workers.seeds",
    "verify_dataset": "iopipe.readers",
    "which_loader": "iopipe.loaders.frameworks",
    "write_arrow": "iopipe.readers",
    "write_comparison": "iopipe.report",
    "write_html": "iopipe.report",
    "write_trace": "iopipe.report",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iopipe' has no attribute {name!r}")
    if name == "meter":  # a package that can be called: its import binds the name
        return importlib.import_module("iopipe.meter")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

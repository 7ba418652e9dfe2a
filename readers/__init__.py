"""Readers and writers of shard formats; one file each."""

from iopipe.readers.arrow import ArrowSource as ArrowSource
from iopipe.readers.arrow_encoder import write_arrow as write_arrow
from iopipe.readers.checkup import inspect_dataset as inspect_dataset
from iopipe.readers.checkup import verify_dataset as verify_dataset
from iopipe.readers.formats import OpenOptions as OpenOptions
from iopipe.readers.formats import WriteOptions as WriteOptions
from iopipe.readers.open import open_source as open_source
from iopipe.readers.webdataset import WebDatasetSource as WebDatasetSource
from iopipe.readers.writing import DatasetWriter as DatasetWriter

"""Readers and writers of shard formats; one file each."""

from iopipe.readers.arrow import ArrowSource as ArrowSource
from iopipe.readers.arrow import write_arrow as write_arrow
from iopipe.readers.open import open_source as open_source
from iopipe.readers.shards import WebDatasetWriter as WebDatasetWriter
from iopipe.readers.webdataset import WebDatasetSource as WebDatasetSource

"""Decode: raw bytes of fields become arrays, numbers and objects."""

from iopipe.loaders.decode.engines import open_engine as open_engine
from iopipe.loaders.decode.stage import make_decoder as make_decoder

"""Decode: raw bytes of fields become arrays, numbers and objects."""

from iopipe.loaders.decode.cpu import make_decoder as make_decoder

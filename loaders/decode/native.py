"""JPEG regions by native code: decode, resize and mirror in one call a chunk.

Stands under the decode stage, beside `images` and `resize`, which do the same step by step.
Invariant: the result is theirs, within one unit of rounding; where the code cannot be built or
does not agree with them, `load` says why and nothing is decoded here.

The code (native.c, huffman.c, resize.c) is compiled once by the machine's C compiler into the
cache folder, for this machine's processor.  It calls the libjpeg-turbo that Pillow brings, or the
system's, in whose place it decodes the Huffman codes of baseline images.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import io
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from iopipe.errors import DataError, MissingDependency

_log = logging.getLogger(__name__)

_SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("native.c", "huffman.c", "resize.c", "native.h")
)
_FLAGS = ("-std=c11", "-O3", "-march=native", "-shared", "-fPIC")
_FUNCTIONS = (
    *("jpeg_std_error", "jpeg_CreateDecompress", "jpeg_mem_src", "jpeg_read_header"),
    *("jpeg_start_decompress", "jpeg_crop_scanline", "jpeg_skip_scanlines"),
    *("jpeg_read_scanlines", "jpeg_finish_decompress", "jpeg_destroy_decompress"),
)
_MESSAGE_BYTES = 200
_REASONS = {2: "its data is damaged", 3: "its size is not the one of its header"}
_NO_MEMORY = 4
_JOB = np.dtype(
    [
        ("content", np.uintp),
        ("num_bytes", np.uint64),
        *((name, np.int32) for name in ("top", "left", "height", "width")),
        *((name, np.int32) for name in ("mirrored", "is_scaled")),
        ("out", np.uintp),
        ("status", np.int32),
    ],
    align=True,
)
_local = threading.local()

Pixels = npt.NDArray[np.uint8]


def decode_regions(
    contents: Sequence[memoryview],
    boxes: npt.NDArray[np.int64],
    mirrored: npt.NDArray[np.bool_],
    targets: Sequence[Pixels],
    *,
    is_scaled: bool,
) -> None:
    """Fill `targets`, each uint8 [height, width, 3] and contiguous, all of one size.

    `boxes` [n, 4]: top, left, height, width of the region in the whole image's pixels.
    `DataError` with the row of the first image that cannot be decoded.
    """
    if contents:
        height, width = targets[0].shape[:2]
        _decode(contents, boxes, mirrored, targets, (height, width), is_scaled=is_scaled)


def cut_regions(
    contents: Sequence[memoryview],
    boxes: npt.NDArray[np.int64],
    targets: Sequence[Pixels],
) -> None:
    """Fill `targets`, each of its region's own size, with what a full decode has there."""
    if contents:
        straight = np.zeros(len(contents), np.bool_)
        _decode(contents, boxes, straight, targets, (0, 0), is_scaled=False)


def _decode(
    contents: Sequence[memoryview],
    boxes: npt.NDArray[np.int64],
    mirrored: npt.NDArray[np.bool_],
    targets: Sequence[Pixels],
    size: tuple[int, int],
    *,
    is_scaled: bool,
) -> None:
    held = [np.frombuffer(content, np.uint8) for content in contents]
    jobs = np.zeros(len(held), _JOB)
    jobs["content"] = [content.ctypes.data for content in held]
    jobs["num_bytes"] = [len(content) for content in held]
    for column, name in enumerate(("top", "left", "height", "width")):
        jobs[name] = boxes[:, column]
    jobs["mirrored"], jobs["is_scaled"] = mirrored, is_scaled
    jobs["out"] = [target.ctypes.data for target in targets]
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    bad = load().iopipe_decode(
        jobs.ctypes.data, len(jobs), _scratch(), *size, ctypes.addressof(message)
    )
    if bad >= 0:
        status = int(jobs["status"][bad])
        if status == _NO_MEMORY:
            raise MemoryError("no memory to decode an image in")
        said = message.value.decode("latin-1") or _REASONS.get(status, "")
        raise DataError(f"the image cannot be decoded: {said}", row=bad)


@functools.cache
def load() -> Any:
    """The compiled code; `MissingDependency` says why there is none."""
    built = _built()
    try:
        code: Any = ctypes.CDLL(os.fspath(built))
    except OSError as error:  # cut short by a full disk, or in a place where nothing may run
        raise MissingDependency(
            f"native JPEG decoding: {error}; remove that file, or set XDG_CACHE_HOME to another "
            "folder"
        ) from error
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    code.iopipe_decode.argtypes = [pointer, integer, pointer, integer, integer, pointer]
    code.iopipe_scratch.restype = pointer
    code.iopipe_free_scratch.argtypes = [pointer]
    library = _jpeg_library()
    addresses = [ctypes.cast(getattr(library, name), pointer).value for name in _FUNCTIONS]
    code.iopipe_bind((pointer * len(addresses))(*addresses))
    code.jpeg = library  # loaded as long as the code is
    _try(code)
    return code


@functools.cache
def why_not() -> str | None:
    """The reason why `load` fails here; None where it does not.  Logged once."""
    try:
        load()
    except MissingDependency as error:
        _log.warning("images are decoded step by step, which takes twice as long: %s", error)
        return str(error)
    return None


def _try(code: Any) -> None:
    """Decode an image of known pixels: another ABI would show here, not in a training run."""
    pixels = np.full((48, 80, 3), 90, np.uint8)
    pixels[:, 40:] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    content = np.frombuffer(file.getvalue(), np.uint8)
    found = np.zeros((48, 40, 3), np.uint8)
    job = np.zeros(1, _JOB)
    job["content"], job["num_bytes"] = content.ctypes.data, len(content)
    job["left"], job["height"], job["width"] = 40, 48, 40
    job["out"] = found.ctypes.data
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    scratch = code.iopipe_scratch()
    bad = code.iopipe_decode(job.ctypes.data, 1, scratch, 48, 40, ctypes.addressof(message))
    code.iopipe_free_scratch(scratch)
    expected = np.asarray(Image.open(file).convert("RGB"))[:, 40:].astype(int)
    if bad >= 0 or np.abs(found - expected).max() > 1:
        raise MissingDependency(
            f"native JPEG decoding does not agree with Pillow here ({message.value!r}): its "
            "libjpeg has another layout"
        )


def _jpeg_library() -> Any:
    """The libjpeg-turbo that Pillow's wheel brings, else the system's."""
    bundled = sorted((Path(PIL.__file__).parents[1] / "pillow.libs").glob("libjpeg-*.so.62*"))
    name = os.fspath(bundled[0]) if bundled else ctypes.util.find_library("jpeg")
    try:
        library = ctypes.CDLL(name) if name else None
    except OSError as error:
        raise MissingDependency(f"native JPEG decoding: {name} cannot be loaded") from error
    missing = [one for one in _FUNCTIONS if library is None or not hasattr(library, one)]
    if missing:
        raise MissingDependency(
            f"native JPEG decoding needs libjpeg-turbo 1.5 or newer with {', '.join(missing)}: "
            "install Pillow from its wheel"
        )
    return library


def _built() -> Path:
    """The shared object, compiled where no process has done so."""
    try:
        source = b"".join(path.read_bytes() for path in _SOURCES)
        flags = repr(_FLAGS).encode()
        key = hashlib.blake2b(source + _processor() + flags, digest_size=12).hexdigest()
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        built = Path(home, "iopipe", "native", f"{key}.so")
        if not built.exists():
            _compile(built)
        return built
    except (OSError, RuntimeError) as error:  # read-only, full, or no home folder at all
        raise MissingDependency(
            f"native JPEG decoding has no place for its compiled code: {error}; set "
            "XDG_CACHE_HOME to a folder that can be written to"
        ) from error


def _compile(built: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise MissingDependency("native JPEG decoding needs a C compiler: apt-get install gcc")
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as name:
        made = Path(name, "native.so")
        code = [os.fspath(path) for path in _SOURCES if path.suffix == ".c"]
        command = [compiler, *_FLAGS, *code, "-o", os.fspath(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingDependency(
                f"native JPEG decoding could not be compiled by {compiler}: {done.stderr[-500:]}"
            )
        os.replace(made, built)


def _processor() -> bytes:
    """What -march=native goes by: a cache folder may be shared by unlike machines."""
    lines = Path("/proc/cpuinfo").read_bytes().split(b"\n")
    wanted = (b"flags", b"Features", b"model name")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _scratch() -> int:
    """Memory of this thread, freed with it."""
    if not hasattr(_local, "scratch"):
        _local.scratch = _Scratch()
    address: int = _local.scratch.address
    return address


class _Scratch:
    def __init__(self) -> None:
        self.address: int = load().iopipe_scratch()
        if not self.address:
            raise MemoryError("no memory to decode images in")
        weakref.finalize(self, load().iopipe_free_scratch, self.address).atexit = False

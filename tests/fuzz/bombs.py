"""Images whose headers claim more pixels than anybody should decode.

Stands under the fuzz tests of images.  Invariant: small files, each with a right header of
its format, so that only a limit on the size can refuse it.

Sources: ITU-T T.81 (JPEG), PNG 1.2, GIF89a, the WebP container specification, TIFF 6.0,
Microsoft's BITMAPFILEHEADER and BITMAPINFOHEADER, Netpbm's PPM.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def _picture() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 48)).convert("RGB")


def encoded(kind: str, **options: object) -> bytes:
    """An honest image of 64 x 48 pixels."""
    file = io.BytesIO()
    _picture().save(file, kind, **options)
    return file.getvalue()


def jpeg(width: int, height: int, *, progressive: bool = False) -> bytes:
    content = bytearray(encoded("JPEG", progressive=progressive))
    place = content.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    struct.pack_into(">HH", content, place, min(height, 65500), min(width, 65500))
    return bytes(content)


def jpeg2000(width: int, height: int, *, lies: bool = False) -> bytes:
    """With `lies` the container says 64 x 48 and only the codestream in it is so large."""
    content = bytearray(encoded("JPEG2000"))
    place = content.index(b"\xff\x51") + 6
    for field in (place, place + 16):  # the image, and its one tile
        struct.pack_into(">II", content, field, width, height)
    if not lies:
        struct.pack_into(">II", content, content.index(b"ihdr") + 4, height, width)
    return bytes(content)


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 << 16))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(width: int, height: int) -> bytes:
    content = bytearray(encoded("GIF"))
    struct.pack_into("<HH", content, 6, min(width, 65535), min(height, 65535))
    return bytes(content)


def webp(width: int, height: int) -> bytes:
    """The extended format's canvas; its frame keeps its own size."""
    frame = encoded("WEBP", lossless=True)[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiny_webp(width: int, height: int) -> bytes:
    """A lossless one, as short as they are: its five bytes of header are all there is."""
    bits = min(width, 1 << 14) - 1 | min(height, 1 << 14) - 1 << 14
    body = b"WEBPVP8L" + struct.pack("<I", 5) + b"/" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated_webp(width: int, height: int) -> bytes:
    content = bytearray(webp(width, height))
    content[20] |= 2  # the flag of an animation
    return bytes(content)


def bmp(width: int, height: int) -> bytes:
    content = bytearray(encoded("BMP"))
    struct.pack_into("<ii", content, 18, width, height)
    return bytes(content)


def ppm(width: int, height: int) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + bytes(100)


def tiff(width: int, height: int) -> bytes:
    return _tagged(encoded("TIFF", compression="tiff_lzw"), {256: width, 257: height})


def tiled_tiff(width: int, height: int) -> bytes:
    """Few pixels, in tiles of many."""
    strips = _tagged(encoded("TIFF", compression="tiff_lzw"), {})
    return _tagged(strips, {273: None, 279: None, 278: None}, {322: width, 323: height})


def _tagged(
    content: bytes, changed: dict[int, int | None], added: dict[int, int] | None = None
) -> bytes:
    """A little-endian TIFF with tags changed; strips become tiles where tags of tiles are
    added."""
    (place,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, place)
    entries = [
        struct.unpack_from("<HHI4s", content, place + 2 + 12 * number) for number in range(count)
    ]
    tags = {tag: (kind, number, value) for tag, kind, number, value in entries}
    if added:
        tags[324], tags[325] = tags[273], tags[279]
    for tag, value in changed.items():
        tags.pop(tag)
        if value is not None:
            tags[tag] = (4, 1, struct.pack("<I", value))
    for tag, value in (added or {}).items():
        tags[tag] = (4, 1, struct.pack("<I", value))
    table = b"".join(struct.pack("<HHI4s", tag, *tags[tag]) for tag in sorted(tags))
    directory = struct.pack("<H", len(tags)) + table + bytes(4)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


def npy(num_items: int) -> bytes:
    """An array that claims so many numbers."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({num_items},), }}"
    padded = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode()

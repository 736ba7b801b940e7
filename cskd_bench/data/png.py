"""PNG's chunks: whether those that hold the pixels are as they were written, and what else a file carries."""

import zlib
from collections.abc import Iterator
from typing import Final

_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_PIXELS: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def is_png(content: bytes) -> bool:
    """Whether a file begins as a PNG does."""
    return content.startswith(_MAGIC)


def damaged_chunk(content: bytes) -> str:
    """Name the first chunk of a PNG's pixels whose checksum is wrong; empty where there is none."""
    view = memoryview(content)
    for kind, start, end in _chunks(content):
        if kind in _PIXELS and zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return kind.decode()
    return ""


def exif_chunk(content: bytes) -> bytes:
    """Return a PNG's EXIF data; empty where it has none."""
    return next((content[start + 8 : end - 4] for kind, start, end in _chunks(content) if kind == b"eXIf"), b"")


def bare_png(content: bytes) -> bytes:
    """Return a PNG without texts, profiles and times: its pixels and EXIF data alone."""
    kept = (*_PIXELS, b"eXIf")
    return _MAGIC + b"".join(content[start:end] for kind, start, end in _chunks(content) if kind in kept)


def grey_steps(content: bytes) -> int:
    """Return by how much Pillow multiplies the stored values of a PNG: greys of 2 and 4 bits are spread to 255."""
    bits, colours = content[len(_MAGIC) + 16 : len(_MAGIC) + 18]
    return 255 // (2**bits - 1) if colours == 0 and bits in (2, 4) else 1


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each whole chunk's kind, where it begins, and where its checksum ends."""
    start = len(_MAGIC)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        kind = content[start + 4 : start + 8]
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end

"""The one gate for images: stored bytes of any format to upright 8-bit RGB, or a sentence that says why not."""

import ctypes
import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Final, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, _imaging

from cskd_bench.data.exif import SWAPPED, TURNS, UPRIGHT, read_orientation
from cskd_bench.data.png import bare_png, damaged_chunk, exif_chunk, is_png
from cskd_bench.errors import UserError

T = TypeVar("T")

DECODING: Final = 2  # the rules below; 1 left images as stored and cut 16 bits at 255. Kept features are keyed by it
_DEEP: Final = ("PNG", "PPM")  # formats whose mode I holds 16 bits
_PROGRAMS: Final = ("EPS",)  # formats that Pillow gives to another program to be carried out
_LONGEST: Final = 200  # characters of another library's reason
_BITS: Final = 258  # TIFF's tag of bits in a value
_QUIET: Final = r"PIL\."


def decode(content: bytes, where: str) -> Image.Image:
    """Decode an encoded image to RGB; UserError says `where` it lies when it cannot be used."""
    try:
        return to_rgb(content)
    except ValueError as error:
        raise UserError(f"{where}: not a readable image ({error})") from error


def to_rgb(content: bytes) -> Image.Image:
    """Return the first frame of an encoded image as RGB, turned as its EXIF data say; ValueError says why not.

    Values of 16 bits lose the lower eight, as libpng and OpenCV drop them. Integers of 32 bits are taken as 0 to 255
    and floats as 0 to 1; others are refused, because no file says what its range is. Transparency is dropped.
    """
    return read_stored(content, convert_to_rgb)


def upright_size(content: bytes) -> tuple[int, int]:
    """Return the width and height that an encoded image has once it is turned; its pixels are not decoded."""

    def measure(image: Image.Image) -> tuple[int, int]:
        exif = exif_chunk(content) if image.format == "PNG" else _exif(image)
        width, height = image.size
        return (height, width) if read_orientation(exif) in SWAPPED else (width, height)

    return read_stored(content, measure)


def read_stored(content: bytes, work: Callable[[Image.Image], T]) -> T:
    """Open an encoded image and return what `work` makes of it; ValueError in one line for whatever goes wrong.

    A truncated file is refused, also where another library told Pillow to fill it up. Pillow's warnings are not shown.
    """
    _silence_pillow()
    if is_png(content) and (kind := damaged_chunk(content)):
        raise ValueError(f"damaged: the checksum of its {kind} chunk is wrong")
    try:
        with _whole_files():
            try:
                return _open(content, work)
            except ValueError:  # Pillow reads no more than a megabyte of text
                bare = bare_png(content) if is_png(content) else content
                if len(bare) == len(content):
                    raise
            return _open(bare, work)
    except Exception as error:  # decoders of other formats fail in many ways
        raise ValueError(_why(error, content)) from error


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as `to_rgb` does; raises whatever its decoder raises."""
    image.load()
    if not image.width or not image.height:
        raise ValueError("it has no pixels")
    orientation = read_orientation(_exif(image))
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in _DEEP):
        colours = _grey(np.asarray(image) >> _bits(image) - 8)
    elif mode in ("I", "F"):
        colours = _grey(_scale(np.asarray(image), 1 if mode == "I" else 255))
    else:
        colours = (image.convert("LA") if mode == "La" else image).convert("RGB")
    return colours if orientation == UPRIGHT else colours.transpose(TURNS[orientation])


def _open(content: bytes, work: Callable[[Image.Image], T]) -> T:
    with Image.open(io.BytesIO(content)) as image:
        if image.format in _PROGRAMS:
            raise ValueError(f"it is {image.format}, a program that draws; save it as PNG")
        return work(image)


def _exif(image: Image.Image) -> bytes:
    """Return an image's EXIF data; of a TIFF there are none, which Pillow turns itself."""
    exif = image.info.get("exif", b"")
    return exif if isinstance(exif, bytes) else b""


def _bits(image: Image.Image) -> int:
    """Return how many bits a value of an image of up to 16 bits has: a TIFF's may be packed into 12."""
    stored = getattr(image, "tag_v2", {}).get(_BITS, (16,))
    return int(stored[0]) if 8 < int(stored[0]) <= 16 else 16


def _scale(values: np.ndarray, by: int) -> np.ndarray:
    """Return values times `by`, rounded; ValueError where one is not 0 to 255 then."""
    with np.errstate(all="ignore"):  # what overflows is infinite then, and refused
        scaled: np.ndarray = np.rint(values * float(by))
    if not ((scaled >= 0) & (scaled <= 255)).all():
        kind, most = ("integers", "255") if by == 1 else ("floating-point numbers", "1")
        if not np.isfinite(values).all():
            raise ValueError("some of its values are infinite or not a number; save it with 8 or 16 bits")
        low, high = float(values.min()), float(values.max())
        raise ValueError(
            f"its values are {kind} of 32 bits from {low:g} to {high:g}, and only 0 to {most} are read; "
            "save it with 8 or 16 bits"
        )
    return scaled


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _why(error: Exception, content: bytes) -> str:
    """Say in one line what is wrong with a file that could not be decoded."""
    start = content[:512].lstrip().lower()
    if not content:
        return "the file is empty"
    if not content.strip(b"\0"):
        return f"its {len(content):,} bytes are all zero"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not an image"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; get the file itself with git lfs pull"
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or of a format that Pillow does not read"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))[:_LONGEST]
    if isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _silence_pillow() -> None:
    """Keep what Pillow says of a file from the terminal: it is refused in our words, or harmless."""
    if ("ignore", None, Warning, re.compile(_QUIET), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=_QUIET)
    _silence_libraries()


@cache
def _silence_libraries() -> None:
    """Let Pillow's log print nothing where no one has set it up, nor the libtiff that Pillow is linked to."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        with suppress(OSError, AttributeError):  # a Pillow without it
            getattr(ctypes.CDLL(_imaging.__file__), name)(None)


_STRICT = threading.Lock()
_readers: list[bool] = []  # what Pillow was told before the first of the threads that read now


@contextmanager
def _whole_files() -> Iterator[None]:
    """Let Pillow refuse truncated files while any thread is in here."""
    with _STRICT:
        _readers.append(_readers[0] if _readers else ImageFile.LOAD_TRUNCATED_IMAGES)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _STRICT:
            told = _readers.pop()
            if not _readers:
                ImageFile.LOAD_TRUNCATED_IMAGES = told

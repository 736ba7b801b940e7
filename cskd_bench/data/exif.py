"""How an image is to be turned, read from EXIF data; anything odd in them leaves it as it is stored."""

import struct
from typing import Final

from PIL import Image

UPRIGHT: Final = 1
TURNS: Final = {  # EXIF's orientation -> what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPPED: Final = (5, 6, 7, 8)  # orientations that exchange width and height

_PREFIX: Final = b"Exif\0\0"
_TAG: Final = 0x0112
_TYPES: Final = {3: "H", 4: "I"}  # EXIF's short, and the long that some programs write


def read_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF data name; 1 where they name none or cannot be read."""
    data = exif.removeprefix(_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return UPRIGHT
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, first)
        for place in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, place)
            if tag == _TAG and kind in _TYPES:
                (value,) = struct.unpack_from(order + _TYPES[kind], data, place + 8)
                return int(value) if value in TURNS else UPRIGHT
    except struct.error:  # cut short
        pass
    return UPRIGHT


def jpeg_orientation(content: bytes) -> int:
    """Return the orientation of a JPEG file from its headers, without decoding it; 1 where it has none."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xFF:  # padding
            place += 1
        elif marker == 0xDA or length < 2:  # pixels begin
            break
        elif marker == 0xE1 and content.startswith(_PREFIX, place + 4):
            return read_orientation(content[place + 4 : place + 2 + length])
        else:
            place += 2 + length
    return UPRIGHT

"""Arrays out of an .npz file in memory, as `np.load` reads them, in less time for small files."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LOCAL_HEADER: Final = 30  # bytes before a member's name and extra field
REPEATED: Final = "label.npy"  # the same bytes in all records of a task, unpacked once
MAGIC: Final = b"\x93NUMPY\x01\x00"


def read_arrays(content: bytes, names: Sequence[str], optional: str = "") -> list[NDArray[Any] | None]:
    """Return the named arrays, then the optional one if asked for, None where the file has none of its name.

    Whatever `np.load` would raise for a damaged file is raised here too.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        known = {info.filename: info for info in archive.infolist()}
    wanted = [*names, *([optional] if f"{optional}.npy" in known else [])]
    missing: list[None] = [None] if optional and optional not in wanted else []
    found = [_plain_array(content, known[f"{name}.npy"]) for name in wanted]
    if all(array is not None for array in found):
        return [*found, *missing]
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return [*(arrays[name] for name in wanted), *missing]


def _plain_array(content: bytes, member: zipfile.ZipInfo) -> NDArray[Any] | None:
    """Return a member as the suite writes it, None where anything about it is unusual."""
    start = member.header_offset
    if content[start : start + 4] != b"PK\x03\x04" or member.flag_bits & 1:
        return None
    start += LOCAL_HEADER + sum(struct.unpack_from("<HH", content, start + 26))
    packed = content[start : start + member.compress_size]
    unpack = _unpack_again if member.filename == REPEATED else _unpack
    return unpack(packed, member.compress_type, member.file_size, member.CRC)


def _unpack(packed: bytes, compression: int, size: int, checksum: int) -> NDArray[Any] | None:
    if compression == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-15).decompress(packed, size)
    elif compression == zipfile.ZIP_STORED:
        data = packed
    else:
        return None
    if len(data) != size or zlib.crc32(data) != checksum or data[:8] != MAGIC:
        return None
    end = 10 + int.from_bytes(data[8:10], "little")
    header = _header(data[:end])
    if header is None:
        return None
    dtype, length = header
    return np.frombuffer(data, dtype, offset=end) if len(data) == end + length * dtype.itemsize else None


_unpack_again = lru_cache(maxsize=2)(_unpack)


@lru_cache(maxsize=256)
def _header(header: bytes) -> tuple[np.dtype[Any], int] | None:
    """Return the type and length of a one-dimensional array of numbers, None for any other."""
    try:
        file = io.BytesIO(header)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return None
    return (dtype, shape[0]) if len(shape) == 1 and dtype.kind in "iuf" else None

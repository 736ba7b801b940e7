"""Indexes: what was found when a large split was opened, kept so that the next process need not look again.

An index is numpy arrays behind a checksum, never pickled. It lies beside the data, else in the user's cache folder,
else in this process alone. One that is damaged, of another release or out of date counts as none, and is replaced.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.names import real_path

Index = Mapping[str, np.ndarray]
Made = TypeVar("Made")

FEWEST: Final = 10_000  # files, or samples, below which an index saves nothing
SETTLED: Final = 2.0  # seconds: what changed later than this may have changed again without showing in its times
_MAGIC: Final = b"cskd-bench index 1\n"
_DIGEST: Final = 32  # bytes of SHA-256
_NAME: Final = (".cskd-bench-", ".index")  # how its name begins, hidden from every reader of folders, and ends
_in_memory: dict[Path, bytes] = {}  # indexes that no folder takes


def index_path(folder: Path, name: str) -> Path:
    """Return where the index of `name` in a folder lies; links are followed."""
    return real_path(folder) / f"{_NAME[0]}{name}{_NAME[1]}"


def is_index(name: str) -> bool:
    """Whether a file's name is one of an index, whole or being written."""
    return _NAME[0] in name[: len(_NAME[0]) + 1] and _NAME[1] in name


def read_index(path: Path, use: Callable[[Index], Made | None]) -> Made | None:
    """Return what `use` makes of the first index that it takes; it returns None for one that is out of date.

    None where there is no such index, and where CSKD_BENCH_INDEX=off says that none is wanted.
    """
    for content in _contents(path):
        try:
            made = use(_unpack(content))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, UserError):
            continue  # of another release, or not ours
        if made is not None:
            return made
    return None


def write_index(path: Path, index: Index, count: int, newest: int, began: int) -> None:
    """Keep an index of `count` files where that is possible and saves something.

    `newest` is when what it was made from was last changed, `began` when that was looked at, both in ns: a change right
    after another need not show in the times.
    """
    if not _is_wanted() or count < FEWEST or newest > began - int(SETTLED * 1e9):
        return
    content = _pack(index)
    for place in _places(path):
        try:
            if place.is_symlink():  # whose file would be written over
                continue
            write_file(place, content)
            _in_memory.pop(path, None)
            return
        except (OSError, UserError):
            continue
    _in_memory[path] = content


def homeless_indexes() -> dict[Path, bytes]:
    """Return the indexes that this process alone holds."""
    return dict(_in_memory)


def take_indexes(indexes: Mapping[Path, bytes]) -> None:
    """Hold the indexes of another process as well."""
    _in_memory.update(indexes)


def pack_texts(texts: Iterator[str] | list[str]) -> np.ndarray:
    """Return texts without zero bytes as one array for an index."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogatepass"), np.uint8)


def unpack_texts(packed: np.ndarray) -> list[str]:
    """Return the texts of `pack_texts`; of none, one that is empty."""
    return packed.tobytes().decode("utf-8", "surrogatepass").split("\0")


def _contents(path: Path) -> Iterator[bytes]:
    if not _is_wanted():
        return
    for place in _places(path):
        try:
            content = place.read_bytes() if place.is_file() else b""  # a pipe's end may never come
        except OSError:
            continue
        yield content
    if path in _in_memory:
        yield _in_memory[path]


def _is_wanted() -> bool:
    return os.environ.get("CSKD_BENCH_INDEX", "") != "off"


def _places(path: Path) -> Iterator[Path]:
    yield path
    with suppress(RuntimeError):  # a user without a home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        yield cache / "cskd-bench" / f"{key}{_NAME[1]}"


def _pack(index: Index) -> bytes:
    """Return magic, the SHA-256 of the rest, the length of a JSON header, the header, and arrays at multiples of 8."""
    arrays = {name: np.ascontiguousarray(array) for name, array in index.items()}
    kinds = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    header = json.dumps({"names": sys.getfilesystemencoding(), "arrays": kinds}).encode()
    header += b" " * (-(len(_MAGIC) + _DIGEST + 8 + len(header)) % 8)
    parts = [len(header).to_bytes(8, "little"), header]
    for array in arrays.values():
        parts += [array.tobytes(), bytes(-array.nbytes % 8)]
    rest = b"".join(parts)
    return b"".join((_MAGIC, hashlib.sha256(rest).digest(), rest))


def _unpack(content: bytes) -> Index:
    """Return an index's arrays, which are views of its bytes; ValueError for a damaged or foreign one."""
    start = len(_MAGIC) + _DIGEST
    rest = memoryview(content)[start:]
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(rest).digest() != content[len(_MAGIC) : start]:
        raise ValueError("damaged, or no index")
    length = int.from_bytes(rest[:8], "little")
    header, at = json.loads(bytes(rest[8 : 8 + length])), start + 8 + length
    if header["names"] != sys.getfilesystemencoding():
        raise ValueError("names are read in another way")
    index = {}
    for name, (kind, shape) in header["arrays"].items():
        array = np.frombuffer(content, np.dtype(kind), int(np.prod(shape)), at).reshape(shape)
        index[name] = array
        at += array.nbytes + -array.nbytes % 8
    return index

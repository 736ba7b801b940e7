"""Names of very many files in little memory: one byte array instead of a Path each."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from stat import S_ISREG
from typing import overload

import numpy as np

from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes

Found = tuple[str, int, int]  # an image's file name, its bytes, and when it was written in ns


class Names(Sequence[str]):
    """Texts end to end: `text` (bytes,) uint8 holds them, `ends` (n,) where each ends."""

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    def check(self) -> None:
        """ValueError where the ends are not those of the text."""
        starts = np.concatenate([np.zeros(1, self.ends.dtype), self.ends[:-1]])
        if not len(self.ends) or self.ends[-1] != len(self.text) or bool((starts > self.ends).any()):
            raise ValueError("names end where they cannot")

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        at = range(len(self))[index]
        start = int(self.ends[at - 1]) if at else 0
        return self.text[start : int(self.ends[at])].tobytes().decode("utf-8", "surrogatepass")


class NamesWriter:
    """Gathers texts for `Names`."""

    def __init__(self) -> None:
        self._text, self._lengths = bytearray(), array("I")

    def add(self, names: Sequence[str]) -> None:
        """Add texts after those that are there; any text that Python holds comes back as it is."""
        joined = "".join(names)
        self._text += joined.encode("utf-8", "surrogatepass")
        stored = names if joined.isascii() else (name.encode("utf-8", "surrogatepass") for name in names)
        self._lengths.extend(map(len, stored))

    def finish(self) -> Names:
        """Return all of them."""
        wide = np.uint32 if len(self._text) < 2**32 else np.uint64
        return Names(np.frombuffer(bytes(self._text), np.uint8), np.cumsum(self._lengths, dtype=wide))


@dataclass(frozen=True)
class Listing:
    """Image files in order: image i is `names[i]` in folder `folders[folder[i]]`, of `sizes[i]` bytes.

    `shown` names each folder to a person and in the identity. `stamp` tells when the files were written.
    """

    folders: Sequence[str]
    shown: Sequence[str]
    folder: np.ndarray  # (n,) of the smallest unsigned type
    names: Names
    sizes: np.ndarray  # (n,) int64
    identity: str
    stamp: str

    def __len__(self) -> int:
        return len(self.names)

    def check(self) -> None:
        """ValueError where the parts do not fit together."""
        self.names.check()
        check_column(self.sizes, len(self.names))
        check_column(self.folder, len(self.names), len(self.folders))
        if len(self.folders) != len(self.shown):
            raise ValueError("folders have not one name each")

    def path(self, index: int) -> Path:
        return Path(self.folders[self.folder[index]], self.names[index])

    def name(self, index: int) -> str:
        """Return a file's name behind its folder's, as the identity holds them."""
        return f"{self.shown[self.folder[index]]}/{self.names[index]}"

    def choose(self, indices: Iterable[int]) -> "Listing":
        """Return chosen files, in the given order, looked up again; UserError for one that is missing."""
        numbers = self.folder
        return _look_up_all(
            (self.folders[numbers[index]], self.shown[numbers[index]], self.names[index]) for index in indices
        )


class Paths(Sequence[Path]):
    """The paths of a listing, made where they are asked for."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self._listing.path(at) for at in range(len(self))[index]]
        return self._listing.path(index)


class ListingWriter:
    """Gathers files for a `Listing`, folder by folder; `times` is when each was written, in ns."""

    def __init__(self) -> None:
        self._number: dict[tuple[str, str], int] = {}
        self._names, self._folder = NamesWriter(), array("I")
        self.sizes, self.times = array("q"), array("q")
        self._identity, self._stamp = hashlib.sha256(), hashlib.sha256()

    def add(self, folder: str, shown: str, found: Sequence[Found]) -> int:
        """Add files of one folder after those that are there, and return the folder's number."""
        names, sizes, times = zip(*found, strict=True)
        separate = bool(self.sizes)
        number = self._number.setdefault((folder, shown), len(self._number))
        lines = "\n".join(f"{shown}/{name} {size}" for name, size, _ in found)
        self._identity.update(name_bytes(f"\n{lines}" if separate else lines))
        self._stamp.update(f"{' ' if separate else ''}{' '.join(map(str, times))}".encode())
        self._names.add(names)
        self._folder.extend([number]) if len(found) == 1 else self._folder.extend(array("I", [number]) * len(found))
        self.sizes.extend(sizes)
        self.times.extend(times)
        return number

    def finish(self) -> Listing:
        """Return all of them."""
        return Listing(
            folders=[folder for folder, _ in self._number],
            shown=[shown for _, shown in self._number],
            folder=np.asarray(self._folder, np.min_scalar_type(max(0, len(self._number) - 1))),
            names=self._names.finish(),
            sizes=np.array(self.sizes, np.int64),
            identity=self._identity.hexdigest()[:16],
            stamp=self._stamp.hexdigest()[:16],
        )


def check_column(column: np.ndarray, count: int, beyond: int | None = None) -> None:
    """ValueError unless there are `count` whole numbers, from 0 and all below `beyond`."""
    if column.dtype.kind not in "iu" or column.shape != (count,):
        raise ValueError("a column of another length or type")
    if bool((column < 0).any()) or (beyond is not None and bool((column >= beyond).any())):
        raise ValueError("a column with a number that stands for nothing")


def list_paths(paths: Iterable[Path]) -> Listing:
    """Look up files in their order; UserError for one that is missing, or is no file."""
    return _look_up_all((*_split(path), path.name) for path in paths)


def look_up(path: Path) -> Found:
    """Return what the system says of an image's file; UserError where there is no such file."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path}: a listed image is missing ({error.strerror})") from error
    except ValueError as error:  # a zero byte, or what no encoding of names has
        raise UserError(f"{str(path)!r}: a list holds a name that no file can have") from error
    if not S_ISREG(found.st_mode):
        raise UserError(f"{path}: is listed as an image, but is no file")
    return path.name, found.st_size, found.st_mtime_ns


def _split(path: Path) -> tuple[str, str]:
    """Return the folder that a path names, and that folder's own name."""
    folder = os.path.split(path)[0]
    return folder, folder.rpartition("/")[2]


def _look_up_all(files: Iterable[tuple[str, str, str]]) -> Listing:
    """Look up files, given as (folder, how it is shown, name)."""
    writer = ListingWriter()
    for (folder, shown), run in groupby(files, lambda file: file[:2]):
        writer.add(folder, shown, list(_look_up_run(folder, run)))
    return writer.finish()


def _look_up_run(folder: str, files: Iterable[tuple[str, str, str]]) -> Iterator[Found]:
    for _, _, name in files:
        yield look_up(Path(folder, name))

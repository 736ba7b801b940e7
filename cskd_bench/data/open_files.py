"""Files that are read at many places, opened once a process."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

_MOST: Final = 128  # open at once: systems allow a process 1,024, and a data set may have more tars


class OpenFiles:
    """Reads at any place of files, which stay open; threads and forked processes do not disturb each other.

    A copy that another process gets by pickling opens them for itself.
    """

    def __init__(self) -> None:
        self._opened = lru_cache(_MOST)(_Descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, ()

    def read(self, path: Path, start: int, count: int) -> bytes:
        """Return `count` bytes from `start`, fewer at the file's end; OSError where it cannot be read."""
        file = self._opened(path)  # held until it is read: another thread may have it forgotten
        return os.pread(file.number, count, start)


class _Descriptor:
    """A file that is open until nothing refers to this object."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

"""How this process takes memory from the system, where the C library can be told, and looks for what is garbage."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_TRIM, _MMAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_LARGEST: Final = 2**31 - 1  # mallopt takes an int
_SETTINGS: Final = (
    (_MMAP, "MALLOC_MMAP_THRESHOLD_", 1 << 30),
    (_TRIM, "MALLOC_TRIM_THRESHOLD_", _LARGEST),
)


def keep_memory() -> bool:
    """Keep freed memory for the next step, which needs as much: else the system hands it out anew, page by page.

    Returns whether anything was set: only glibc knows how, and what the environment says stays.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    wanted = [(option, value) for option, name, value in _SETTINGS if name not in os.environ]
    done = [library.mallopt(option, value) == 1 for option, value in wanted]  # each of them, not until one is done
    return any(done)


@contextmanager
def without_collection() -> Iterator[None]:
    """Let the garbage collector rest while millions of objects are made, none of them garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

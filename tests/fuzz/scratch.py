"""A folder for the files of one input, in memory where the system has that: on disk it takes most of the time."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

MEMORY: Final = Path("/dev/shm")


def scratch() -> TemporaryDirectory[str]:
    """Return a new folder that goes when its block ends."""
    return TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None)

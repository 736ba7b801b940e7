"""How many batches a loader's workers hold ready, from the memory that they may take."""

import shutil
from pathlib import Path
from typing import Final

MOST: Final = 8  # batches that a worker holds ready, however small they are
SHARED_MEMORY: Final = Path("/dev/shm")


def batch_bytes(views: int, side: int) -> int:
    """Return the bytes of a batch as workers make it: uint8 views (B, 3, S, S)."""
    return views * 3 * side**2


def batches_ahead(memory: int, workers: int, size: int) -> int:
    """Return how many batches of `size` bytes each worker holds ready in `memory` bytes: 1 to MOST."""
    return max(1, min(MOST, memory // max(1, workers * size)))


def free_shared_memory(folder: Path = SHARED_MEMORY) -> int | None:
    """Return the bytes that are free where workers put their batches; None on a system without such a folder."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None

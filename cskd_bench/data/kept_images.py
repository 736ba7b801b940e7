"""`run.cache = "memory"`: the decoded training images stay in memory, and each step begins at their crops."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from cskd_bench.data.train_views import TrainViews
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.machine import available_memory

ROOM: Final = 0.7  # of the free memory, shared by the ranks of a machine, that images may take
_AT_ONCE: Final = 256  # images between two looks at the memory and at a request to stop


def keep_images(
    views: TrainViews, ranks_here: int, threads: int, asked_to_stop: Callable[[], bool] = lambda: False
) -> str:
    """Decode all images once and keep them, forked workers share them; return a sentence about it for the log.

    Where they need more than there is room for, none is kept. UserError for an image that cannot be decoded, unless
    the run leaves such images out. Interrupted where a stop is asked for.
    """
    free = available_memory()
    room = math.inf if free is None else free * ROOM / ranks_here
    kept: dict[int, np.ndarray] = {}
    used, count = 0, len(views)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for start in range(0, count, _AT_ONCE):
            if asked_to_stop():
                raise Interrupted("stopped while it read the images into memory; nothing was trained yet")
            indices = range(start, min(start + _AT_ONCE, count))
            for index, image in zip(indices, pool.map(lambda index: _decode(views, index), indices), strict=True):
                if image is not None:
                    kept[index] = image
                    used += image.nbytes
            if used + used / indices.stop * (count - indices.stop) > room:
                wanted = used / indices.stop * count
                return (
                    f'run.cache = "memory": {count:,} images need about {wanted / 1e9:.1f} GB, there is room for '
                    f"{room / 1e9:.1f} GB; they are decoded again for every view"
                )
    views.keep(kept)
    return f"{len(kept):,} of {count:,} decoded images are kept in memory, {used / 1e9:.2f} GB"


def _decode(views: TrainViews, index: int) -> np.ndarray | None:
    try:
        return views.decode(index)
    except UserError:
        if not views.skips():
            raise
        return None  # found again, and counted, when its turn comes

"""One process, or one group of ranks, at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cskd_bench.engine.distributed import Ranks


@contextmanager
def alone(path: Path, ranks: Ranks) -> Iterator[None]:
    """Wait until nobody else holds the lock file `path`; the system gives the lock back when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if ranks.is_main:
            fcntl.flock(file, fcntl.LOCK_EX)
        ranks.barrier()
        yield

"""One process, or one group of ranks, at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cskd_bench.engine.distributed import Ranks


@contextmanager
def alone(path: Path, ranks: Ranks) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`; the system gives the lock back when one dies.

    A record lock belongs to the process alone: loader workers that outlive it do not keep it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if ranks.is_main:
            fcntl.lockf(file, fcntl.LOCK_EX)
        ranks.barrier()
        yield

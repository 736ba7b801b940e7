"""One process, or one group of ranks, at a time."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cskd_bench.bank.claim import NO_LOCKS
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError


@contextmanager
def alone(path: Path, ranks: Ranks) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`; the system gives the lock back when one dies.

    A record lock belongs to the process alone: loader workers that outlive it do not keep it. On a file system
    without locks nobody waits: then start no cell twice at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if ranks.is_main:
            try:
                _take(file, path.name)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise UserError(f"{path}: cannot be locked: {error.strerror}") from error
        ranks.barrier()
        yield


def _take(file: TextIO, what: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        print(f"{what}: another process is at it; waiting until that ends", file=sys.stderr)
        fcntl.lockf(file, fcntl.LOCK_EX)

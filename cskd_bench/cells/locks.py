"""One process, or one group of ranks, at a time."""

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.files import NO_LOCKS
from cskd_bench.stopping import Stop

LOOK: Final = 0.5  # seconds between two looks at a lock that another process holds


@contextmanager
def run_lock(path: Path, ranks: Ranks, stop: Stop | None = None) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`; the system gives the lock back when one dies.

    Ranks look at it together, so that none waits for a peer that waits for the lock. Interrupted where `stop` is
    requested meanwhile.

    A record lock belongs to the process alone: loader workers that outlive it do not keep it. On a file system
    without locks nobody waits: then start no cell twice at a time.
    """
    file = ranks.together(lambda: _open(path))
    with file:
        told = False
        while not ranks.on_main(lambda: _take(file, path)):
            if ranks.is_main and not told:
                print(f"{path.name}: another process is at it; waiting until that ends", file=sys.stderr, flush=True)
            told = True
            if ranks.settle(stop=stop is not None and stop.requested):
                raise Interrupted("stopped while waiting for another process", kept=stop is not None and stop.kept)
            time.sleep(LOOK)
        yield


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _take(file: TextIO, path: Path) -> bool:
    """Take the lock and say so; False while another process has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"{path}: cannot be locked: {error.strerror}") from error
    return True

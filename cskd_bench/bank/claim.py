"""Who labels which shard, where several processes build one bank."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.files import NO_LOCKS
from cskd_bench.launcher import COUNTING, place_of_process


def launcher_rank() -> tuple[int, int]:
    """Return this process's rank and the number of ranks, as a launcher's environment says; (0, 1) without one.

    Ranks that build a bank share its work as any processes do: they need no process group.
    """
    rank, world, _ = place_of_process(COUNTING)
    return rank, world


@contextmanager
def claim_shard(shard: Path, *, wait: bool) -> Iterator[bool]:
    """Tell whether a shard is this process's to make: it is not there, and no other process is making it.

    With `wait`, another process is let finish first. The system takes a claim from a process that dies. Where
    a file system knows no locks between machines, a shard is made twice, with the same bytes.
    """
    if shard.exists():
        yield False
        return
    lock = shard.with_name(f".{shard.name}.lock")
    try:
        shard.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{lock}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"{lock}: cannot be locked: {error.strerror}") from error
        try:
            yield not shard.exists()
        finally:
            lock.unlink(missing_ok=True)

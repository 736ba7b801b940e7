"""Who labels which shard, where several processes build one bank."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claimed(shard: Path, *, wait: bool) -> Iterator[bool]:
    """Tell whether a shard is this process's to make: it is not there, and no other process is making it.

    With `wait`, another process is let finish first. The system takes a claim from a process that dies. Where
    a file system knows no locks between machines, a shard is made twice, with the same bytes.
    """
    if shard.exists():
        yield False
        return
    shard.parent.mkdir(parents=True, exist_ok=True)
    lock = shard.with_name(f".{shard.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield not shard.exists()
        finally:
            lock.unlink(missing_ok=True)

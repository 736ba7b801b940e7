"""Who labels which shard, where several processes build one bank."""

import fcntl
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from cskd_bench.bank.store import shard_path
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.files import NO_LOCKS
from cskd_bench.launcher import COUNTING, place_of_process
from cskd_bench.stopping import Stop

LOOK: Final = 0.5  # seconds between two looks at a shard that another process makes


def launcher_rank() -> tuple[int, int]:
    """Return this process's rank and the number of ranks, as a launcher's environment says; (0, 1) without one.

    Ranks that build a bank share its work as any processes do: they need no process group.
    """
    rank, world, _ = place_of_process(COUNTING)
    return rank, world


@contextmanager
def claim_shard(shard: Path, *, wait: bool, stop: Stop | None = None) -> Iterator[bool]:
    """Tell whether a shard is this process's to make: it is not there, and no other process is making it.

    With `wait`, another process is let finish first; Interrupted where `stop` is requested meanwhile. The system takes
    a claim from a process that dies. Where a file system knows no locks between machines, a shard is made twice, with
    the same bytes.
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
        while not _take(file, lock):
            if not wait:
                yield False
                return
            refuse_to_go_on(stop)
            time.sleep(LOOK)
        try:
            yield not shard.exists()
        finally:
            lock.unlink(missing_ok=True)


def _take(file: TextIO, lock: Path) -> bool:
    """Take a shard's lock and say so; False while another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"{lock}: cannot be locked: {error.strerror}") from error
    return True


def refuse_to_go_on(stop: Stop | None) -> None:
    """Interrupted where a stop was requested: whole shards are kept."""
    if stop is not None and stop.requested:
        raise Interrupted("stopped while labelling; whole shards are kept, and the same command continues")


class ShardPlace(NamedTuple):
    """Where a shard stands in a bank."""

    epoch: int
    part: int


@dataclass
class Claim:
    """A shard that this process is to make."""

    place: ShardPlace
    lock: ExitStack = field(default_factory=ExitStack)


class Claims:
    """The shards of a bank that this process makes, one after the other, each claimed when it is asked for.

    A loader asks ahead, by as many batches as its workers hold ready: so the next shard may be claimed while the one
    before is made. Without `wait` none is waited for. What is held at the end, or at an error, is given back.
    """

    def __init__(
        self, bank: Path, wanted: Sequence[ShardPlace], *, wait: bool = False, stop: Stop | None = None
    ) -> None:
        self._bank, self._wanted, self._wait, self._stop = bank, deque(wanted), wait, stop
        self.held: deque[Claim] = deque()

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        while self.held:
            self.release_first()

    def __iter__(self) -> Iterator[ShardPlace]:
        """Yield what is held, then what can be claimed."""
        yield from [claim.place for claim in self.held]
        while self.claim_next():
            yield self.held[-1].place

    def claim_next(self) -> bool:
        """Claim the next shard that is not there, and that nobody else makes; say whether there was one."""
        while self._wanted:
            claim = Claim(self._wanted.popleft())
            shard = shard_path(self._bank, *claim.place)
            if claim.lock.enter_context(claim_shard(shard, wait=self._wait, stop=self._stop)):
                self.held.append(claim)
                return True
            claim.lock.close()
        return False

    def release_first(self) -> None:
        """Give back the claim that was made first."""
        self.held.popleft().lock.close()

"""What a rank knows of its peers outside of collectives: that one of them failed, and with which sentence.

A rank that fails where its peers do not expect it leaves its sentence in the store that brought the ranks
together, and goes. A peer that waits for it in a collective finds its connection closed (gloo), or waits on (NCCL):
a thread of each rank looks into the store every second, and ends a process that its main thread cannot end.
"""

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from torch import distributed

from cskd_bench.errors import Interrupted, UserError

LOOK: Final = 1.0  # seconds between two looks into the store
UNREAD: Final = 3  # looks in a row that fail, after which the store counts as gone
GRACE: Final = 4.0  # seconds that a rank has to leave by itself once a peer failed
SENTENCE_OF_A_LOST_RANK: Final = (
    "another rank has ended (it was killed, or its machine failed); "
    "the same command continues from the newest checkpoint"
)
_SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "connection refused", "broken pipe", "socket")


def linger() -> None:
    """Outlive a failure of a run on several nodes by a moment, once its sentence is out.

    One node's agent keeps the store of all, and goes with its ranks. The other agents then kill theirs, which may not
    have said a word yet.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        atexit.register(time.sleep, GRACE)


def sentence_of(error: BaseException) -> str:
    """Say in one sentence what went wrong on this rank."""
    if isinstance(error, UserError | Interrupted):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """Name an error of any kind by its type and the first line of its words."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].removesuffix(": ").removesuffix(":")


def lost_peer(error: BaseException) -> bool:
    """Tell whether an error says that a collective's other end has gone, and is not one of this rank's own."""
    if getattr(error, "own", False):
        return False
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


class Peers:
    """Tells peers of a failure here, and ends this process where a peer's failure would leave it waiting."""

    def __init__(self, store: Any, rank: int, run: str) -> None:
        self._store, self._rank, self._key = store.clone(), rank, f"cskd-bench/fault/{run}"
        self._leaving, self._gone = threading.Event(), threading.Event()
        self._found = ""  # a peer's sentence, kept in case that the store goes with that peer
        threading.Thread(target=self._watch, args=(store.clone(),), daemon=True).start()

    def tell(self, sentence: str, *, linger: bool = True) -> None:
        """Leave this rank's sentence for its peers, and a moment to read it; the first one counts."""
        try:
            self._store.compare_set(self._key, "", f"rank {self._rank}: {sentence}")
        except Exception:  # the store's host is gone, and with it whoever would read this
            return
        if self._rank == 0 and linger:
            time.sleep(2 * LOOK)  # without torchrun the store is this process's own, and goes with it

    def told(self, error: BaseException) -> str:
        """Return the sentence of the rank that failed, waiting a moment for it; else say what this rank met itself."""
        until = time.monotonic() + 2 * LOOK
        while time.monotonic() < until:
            if found := self._found or _read(self._store, self._key):
                return found
            time.sleep(LOOK / 10)
        return f"{SENTENCE_OF_A_LOST_RANK} ({first_line(error)})"

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Let go of the ranks: they no longer matter to this process, but a connection that hangs does."""
        self._leaving.set()
        try:
            yield
        finally:
            self._gone.set()

    def _watch(self, store: Any) -> None:
        unread = 0
        while not self._found and unread < UNREAD and not self._leaving.wait(LOOK):
            found = _read(store, self._key)
            unread, self._found = (unread + 1, "") if found is None else (0, found)
        if self._leaving.wait(GRACE) and self._gone.wait(5 * GRACE):
            return
        if not self._leaving.is_set():
            print(f"cskd-bench: {self._found or SENTENCE_OF_A_LOST_RANK}", file=sys.stderr, flush=True)
        os._exit(2)


def _read(store: Any, key: str) -> str | None:
    """Return what a store holds under a key, empty where nothing, None where the store is gone."""
    try:
        return store.get(key).decode() if store.check([key]) else ""
    except Exception:  # torch raises several kinds, none of them documented
        return None

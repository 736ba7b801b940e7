"""What anyone may see of a bench that runs: a file under RUNS/bench, and a lock for as long as the bench lives."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TextIO

from pydantic import AwareDatetime, Field, NonNegativeInt

from cskd_bench.errors import UserError
from cskd_bench.files import NO_LOCKS, is_running, this_machine, write_file
from cskd_bench.schema import StrictModel

FOLDER: Final = "bench"  # under that of the runs
EVERY: Final = 5.0  # seconds between two writings while nothing happens
STALE: Final = 120.0  # seconds after its last writing in which another machine's bench is believed to live
PATIENCE: Final = 1.0  # seconds in which somebody who looks at a lock will have let go of it

Stage = Literal["finished before", "finished", "running", "ready", "waiting", "given up"]
Outcome = Literal["running", "done", "failed", "interrupted"]


class CellState(StrictModel):
    """One cell of a bench. `seconds` it took, or is expected to take as a whole; `log` is below the folder of runs.

    `since` (UTC) it is in this state; `error` is its last attempt's; `about` as in Expected.
    """

    name: str
    kind: str
    state: Stage
    waits_for: str = ""
    since: AwareDatetime
    attempts: NonNegativeInt = 0  # in this bench
    error: str = ""
    seconds: float | None = None
    expected: float | None = None
    about: bool = False
    log: str


class BenchState(StrictModel):
    """A bench as it was at `updated`. `seconds_left` None: nothing says it; `at_least`: of some cells nothing does."""

    version: Literal[1] = 1
    plan: str
    machine: str
    pid: int = Field(gt=0, lt=2**31)
    started: AwareDatetime
    updated: AwareDatetime
    state: Outcome
    executor: str
    parallel: NonNegativeInt
    seconds_left: float | None
    at_least: bool
    cells: tuple[CellState, ...]

    @property
    def host(self) -> str:
        """The name of the machine."""
        return self.machine.partition(" ")[0]


class Watched:
    """Writes a bench's state, at every event and every few seconds; no bench fails because it cannot."""

    def __init__(self, runs: Path, plan: str) -> None:
        self.plan, self._folder, self._name = plan, runs / FOLDER, plan
        self._lock: TextIO | None = None
        self._next, self._begun = 0.0, False

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / f"{self._name}.json"

    def begin(self) -> str:
        """Take the lock; return a sentence where another bench is at this plan: this one then has a file of its own.

        Files of benches of this plan that have ended are removed.
        """
        self._begun = True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._is_free():
                self._remove_ended()
                return ""
            other = read_state(self.path)
            host = this_machine().partition(" ")[0]
            self._name = f"{self.plan}-{host}-{os.getpid()}"
            self._is_free()
        except OSError:  # a full disk, or one that cannot be written: nothing is shown
            return ""
        whose = f" ({other.host}, process {other.pid})" if other else ""
        return f"another bench of {self.plan}{whose} is at it; they share its cells"

    def _is_free(self) -> bool:
        """Take the lock, which is let go of when this process ends, however it ends."""
        file = self.path.with_suffix(".lock").open("a", encoding="utf-8")
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = file
                return True
            except OSError as error:
                if error.errno in NO_LOCKS:
                    file.close()
                    state = read_state(self.path)
                    return state is None or not is_alive(self.path, state)
                if time.monotonic() > until:
                    file.close()
                    return False
            time.sleep(0.05)

    def _remove_ended(self) -> None:
        for path, state in find_states(self._folder.parent):
            if state and state.plan == self.plan and path != self.path and not is_alive(path, state):
                for file in (path, path.with_suffix(".lock")):
                    with contextlib.suppress(OSError):
                        file.unlink(missing_ok=True)

    def show(self, state: Callable[[], BenchState], *, now: bool = True) -> None:
        """Write what `state` returns, once begun; with `now=False` only if the last writing is a while ago."""
        if not self._begun or (not now and time.monotonic() < self._next):
            return
        self._next = time.monotonic() + EVERY
        with contextlib.suppress(UserError, OSError, ValueError):  # the last: of words that are no UTF-8
            write_file(self.path, (state().model_dump_json(indent=1) + "\n").encode())

    def end(self) -> None:
        """Let go of the lock."""
        if self._lock:
            self._lock.close()


def find_states(runs: Path) -> Iterator[tuple[Path, BenchState | None]]:
    """Yield the files of a runs folder's benches and what they say; None for one that cannot be read."""
    for path in sorted((runs / FOLDER).glob("[!.]*.json")):
        yield path, read_state(path)


def read_state(path: Path) -> BenchState | None:
    """Read a bench's file; None where it is not there, or is none."""
    try:
        return BenchState.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def is_alive(path: Path, state: BenchState) -> bool:
    """Whether a bench still runs: by its lock, else by its process, and from another machine by its file's age."""
    if state.state != "running":
        return False
    here = state.machine == this_machine()
    try:
        with path.with_suffix(".lock").open(encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES) and error.filename is None:
            return True  # the lock is held
        return is_running(state.pid) if here else _is_fresh(state)
    return not here and _is_fresh(state)


def _is_fresh(state: BenchState) -> bool:
    return (utc_now() - state.updated).total_seconds() < STALE


def utc_now() -> datetime:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)

"""Which cells may start, which are tried again, and which are given up."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from cskd_bench.bench.plan import BenchCell, Cells, PretrainCell
from cskd_bench.bench.state import Found
from cskd_bench.bench.work import Ended

ATTEMPTS: Final = 2  # that got no further, within one run of the bench; the next one tries again
STOPS: Final = 10  # of one cell that got no further, by whoever else stops processes here
QUICK: Final = 20.0  # seconds within which a failure says more of the machine than of its cell
LONGEST_PAUSE: Final = 300.0
MARGIN: Final = 1.1  # times what the longest like cell took, that must be left of a bench's time
_NO_SPACE: Final = ("No space left", "Disk quota exceeded")


class Pause:
    """Keeps a bench from wearing out its cells' attempts while the machine itself is at fault.

    After a quick failure that is no fault of the settings nothing starts for a second, after the next one for two, and
    so on; whatever ends well takes the pause back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until, self._length = clock, 0.0, 0.0

    def note(self, ended: Ended, seconds: float) -> float:
        """Account for an end; return the seconds that nothing starts from now on."""
        settings = ended.error.startswith("UserError") and not any(word in ended.error for word in _NO_SPACE)
        if not ended.error and not ended.interrupted:
            self._length = 0.0
        elif ended.error and seconds < QUICK and not settings:
            self._length = min(max(1.0, 2 * self._length), LONGEST_PAUSE)
            self._until = self._clock() + self._length
            return self._length
        return 0.0

    def is_over(self) -> bool:
        """Whether cells may start."""
        return self._clock() >= self._until


class Deadline:
    """Keeps a bench from starting cells that would not finish by a time, as `clock` tells it; None: there is none.

    `longest` says what the longest finished cell like another took, in seconds; one of which that is not known may
    start as long as any time is left.
    """

    def __init__(
        self, until: float | None, longest: Callable[[BenchCell], float | None], clock: Callable[[], float]
    ) -> None:
        self._until, self._longest, self._clock = until, longest, clock

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return self._until is not None

    def allows(self, cell: BenchCell) -> bool:
        """Whether a cell that starts now would finish in time, as far as finished ones tell."""
        if self._until is None:
            return True
        left = self._until - self._clock()
        return left > 0 and MARGIN * (self._longest(cell) or 0.0) <= left


class Queue:
    """Which cells may start: a transfer waits for its pretraining, a student for the plan's own teacher.

    `only` are the names of cells that are asked for, with what they need; None: all. `first` go before
    the others, and what they need too.
    """

    def __init__(
        self, cells: Cells, found: Found, only: Collection[str] | None = None, first: Collection[str] = ()
    ) -> None:
        self.left: list[BenchCell] = []
        self.done = found.find_finished(cells)  # of the whole plan
        self.wanted: list[BenchCell] = []  # what is asked for, in the plan's order: finished, and left
        self.finished: list[BenchCell] = []
        self.running: list[BenchCell] = []
        self.ready: list[BenchCell] = []
        self._teacher = cells.teacher
        self._waiting: dict[str, list[BenchCell]] = {}
        self._attempts: dict[str, int] = {}
        self._stops: dict[str, int] = {}
        self._marks: dict[str, object] = {}
        wanted = self._with_needs(cells.all(), only, self.done)
        self._first = self._with_needs(cells.all(), first, self.done)
        for cell in cells.all():
            if cell.name in wanted:
                self.wanted.append(cell)
                (self.finished if cell.name in self.done else self.left).append(cell)
        names = {cell.name for cell in self.left}
        for cell in self.left:
            needed = self.needs(cell)
            (self._waiting.setdefault(needed, []) if needed in names else self.ready).append(cell)

    def _with_needs(self, cells: Sequence[BenchCell], only: Collection[str] | None, done: Collection[str]) -> set[str]:
        """Return the names of what is asked for and, of what is not done, of all that it needs."""
        by_name = {cell.name: cell for cell in cells}
        wanted = set(by_name) if only is None else set(only)
        asked = [name for name in wanted if name not in done]
        while asked:
            needed = self.needs(by_name[asked.pop()])
            if needed and needed not in wanted and needed in by_name:
                wanted.add(needed)
                asked += [needed] if needed not in done else []
        return wanted

    def needs(self, cell: BenchCell) -> str:
        """Return the name of the cell that must be finished first; empty where there is none."""
        if not isinstance(cell, PretrainCell):
            return cell.run
        is_taught = cell is not self._teacher and cell.config.method.needs_teacher
        return self._teacher.name if self._teacher and is_taught else ""

    def next(self, allowed: Callable[[BenchCell], bool] = lambda cell: True) -> BenchCell | None:
        """Return the cell to start next: the teacher, then transfers, so that whole columns fill early.

        What failed comes after what has not been tried; what is to go first goes before all others. None where no
        cell that may start is `allowed`.
        """
        return min(filter(allowed, self.ready), key=self._rank, default=None)

    def _rank(self, cell: BenchCell) -> tuple[bool, bool, bool, bool]:
        failed = cell.name in self._attempts
        transfer = not isinstance(cell, PretrainCell)
        return cell is not self._teacher, failed, cell.name not in self._first, not transfer

    def begin(self, cell: BenchCell, mark: object) -> None:
        """Move a cell to the running ones; `mark` says how far it has come."""
        self.ready.remove(cell)
        self.running.append(cell)
        self._marks[cell.name] = mark

    def account_for(self, cell: BenchCell, ended: Ended, mark: object) -> list[tuple[str, str]]:
        """Account for an attempt; return (cell, error) of all that will not be run any more.

        An attempt that brought the cell further, by its mark, does not count; neither does a stop from outside.
        """
        self.running.remove(cell)
        if not ended.error and not ended.interrupted:
            self.ready += self._waiting.pop(cell.name, [])
            return []
        further = mark != self._marks[cell.name]
        if further:
            self._attempts.pop(cell.name, None)
            self._stops.pop(cell.name, None)
        count, most = (self._stops, STOPS) if ended.interrupted else (self._attempts, ATTEMPTS)
        count[cell.name] = count.get(cell.name, 0) + (not further)
        if count[cell.name] < most:
            self.ready.append(cell)
            return []
        what = "the plan's teacher" if cell is self._teacher else "its pretraining"
        error = ended.error or f"stopped {most} times by something else, without getting any further"
        return [(cell.name, error), *self._drop(cell.name, f"not run: {what} failed")]

    def _drop(self, name: str, reason: str) -> list[tuple[str, str]]:
        dropped = []
        for cell in self._waiting.pop(name, []):
            dropped += [(cell.name, reason), *self._drop(cell.name, "not run: its pretraining was not run")]
        return dropped

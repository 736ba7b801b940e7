"""What each cell of a running bench is at, since when, and what became of its attempts."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from cskd_bench.bench.costs import Costs
from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.queue import Queue
from cskd_bench.bench.watched import CellState, Stage, utc_now
from cskd_bench.bench.work import Ended, Places
from cskd_bench.names import readable


class Ledger:
    """Follows the cells of a queue, for whoever looks at the bench from elsewhere."""

    def __init__(self, queue: Queue, costs: Costs, places: Places) -> None:
        self._queue, self._costs, self._places = queue, costs, places
        self._attempts: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        self._given_up: set[str] = set()
        self._seconds = {name: record.cost.seconds for name, record in queue.done.items()}
        self._at: dict[str, tuple[Stage, str, datetime]] = {}

    def note_start(self, cell: BenchCell) -> None:
        """Count an attempt."""
        self._attempts[cell.name] += 1

    def note_end(self, cell: BenchCell, ended: Ended, seconds: float, given_up: Sequence[tuple[str, str]]) -> None:
        """Note how an attempt ended, and which cells will not be run any more for it."""
        self._errors.pop(cell.name, None)
        if ended.error:
            self._errors[cell.name] = ended.error
        elif not ended.interrupted:
            self._seconds[cell.name] = seconds
        self._given_up.update(name for name, _ in given_up)
        self._errors.update(given_up)

    def cells(self, *, running: bool) -> tuple[CellState, ...]:
        """Return every cell that is asked for; none is `running` any more where the bench is not."""
        runs = {cell.name for cell in self._queue.running} if running else set()
        return tuple(self._describe(cell, runs) for cell in self._queue.wanted)

    def _describe(self, cell: BenchCell, runs: set[str]) -> CellState:
        name = cell.name
        stage, waits_for = self._stage(cell, runs)
        if self._at.get(name, ("", ""))[:2] != (stage, waits_for):
            self._at[name] = stage, waits_for, utc_now()
        expected = self._costs.expect(cell)
        return CellState(
            name=name,
            kind=cell.kind,
            state=stage,
            waits_for=waits_for,
            since=self._at[name][2],
            attempts=self._attempts[name],
            error=readable(self._errors.get(name, "")),
            seconds=self._seconds.get(name),
            expected=expected.seconds,
            about=expected.about,
            log=self._places.log(cell).relative_to(self._places.runs).as_posix(),
        )

    def _stage(self, cell: BenchCell, runs: set[str]) -> tuple[Stage, str]:
        if cell.name in self._queue.done:
            return "finished before", ""
        if cell.name in self._given_up:
            return "given up", ""
        if cell.name in self._seconds:
            return "finished", ""
        if cell.name in runs:
            return "running", ""
        needed = self._queue.needs(cell)
        return ("waiting", needed) if needed and needed not in self._seconds else ("ready", "")

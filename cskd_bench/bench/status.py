"""How a bench is going: a live table in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cskd_bench.bench.costs import Expected
from cskd_bench.bench.messages import last_message
from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.work import Places
from cskd_bench.names import clock


class Estimates(Protocol):
    """What says how long cells take, and is told what they took."""

    def expect(self, cell: BenchCell) -> Expected:
        """Return what a whole cell takes."""

    def left(self, cell: BenchCell) -> float:
        """Return the share of a cell that is to be done when it starts."""

    def note_start(self, cell: BenchCell) -> None:
        """Note that a cell goes on from where it is now."""

    def note_finish(self, cell: BenchCell, seconds: float) -> None:
        """Note the seconds that a cell took from where it went on to its end."""


class BenchStatus:
    """Shows running cells with their last message, total progress and, once cells have finished, the time left.

    `left` are the cells to do, `done` counts those that were finished before.
    """

    def __init__(
        self,
        console: Console,
        places: Places,
        *,
        left: Iterable[BenchCell],
        done: int,
        costs: Estimates,
        parallel: int,
    ) -> None:
        self._console, self._places, self._parallel, self._costs = console, places, parallel, costs
        self._left = {cell.name: cell for cell in left}
        self._done = done
        self._total = self._done + len(self._left)
        self._began: dict[str, tuple[BenchCell, float]] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "BenchStatus":
        if self._done:
            self.say(f"{self._done} of {self._total} cells were finished before")
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note_start(self, cell: BenchCell) -> None:
        """Note that a cell was handed to a worker."""
        self._costs.note_start(cell)
        self._began[cell.name] = (cell, time.monotonic())

    def note_failure(self, cell: BenchCell) -> None:
        """Note that a cell's worker is free again, and its work not done."""
        del self._began[cell.name]
        self._costs.note_start(cell)

    def given_up(self, name: str) -> None:
        """Note that a cell will not be run any more."""
        self._left.pop(name, None)

    def note_finish(self, cell: BenchCell) -> None:
        """Count a cell and print its line."""
        _, began = self._began.pop(cell.name)
        self._costs.note_finish(cell, time.monotonic() - began)
        del self._left[cell.name]
        self._done += 1
        left = self._say_left()
        self.say(f"[{self._done}/{self._total}] {cell.name}{f'  ({left} left)' if left and not self._live else ''}")

    def refresh(self) -> None:
        """Draw the live table anew."""
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Group:
        table = Table("running", "since", "last message", box=None, expand=True)
        for cell, began in self._began.values():
            said = last_message(self._places.log(cell), cell.name)
            table.add_row(Text(cell.name), clock(time.monotonic() - began), Text(said, overflow="ellipsis"))
        left = self._say_left()
        return Group(table, Text(f"{self._done} of {self._total} cells{f', {left} left' if left else ''}"))

    def _say_left(self) -> str:
        seconds, whole = self.seconds_left()
        return "" if seconds is None else clock(seconds) if whole else f"more than {clock(seconds)}"

    def seconds_left(self) -> tuple[float | None, bool]:
        """Return what the cells left will take, None where nothing says it; and whether that is of all of them.

        The workers share the sum, but no cell can be shared.
        """
        now = time.monotonic()
        expected = {name: self._costs.expect(cell).seconds for name, cell in self._left.items()}
        seconds = []
        for name, whole in expected.items():
            if whole is not None:
                ran = now - self._began[name][1] if name in self._began else 0.0
                seconds.append(max(0.0, whole * self._costs.left(self._left[name]) - ran))
        if not seconds:
            return None, False
        return max(sum(seconds) / self._parallel, *seconds), len(seconds) == len(expected)

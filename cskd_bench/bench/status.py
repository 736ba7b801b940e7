"""How a bench is going: a live table in a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cskd_bench.bench.plan import Cell
from cskd_bench.bench.work import Places


class Status:
    """Shows running cells with their last message, total progress and, once cells have ended, the time left."""

    def __init__(self, console: Console, places: Places, *, total: int, done: int, parallel: int) -> None:
        self._console, self._places, self._parallel = console, places, parallel
        self._total, self._done = total, done
        self._began: dict[str, tuple[Cell, float]] = {}
        self._durations: list[float] = []
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Status":
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

    def started(self, cell: Cell) -> None:
        """Note that a cell was handed to a worker."""
        self._began[cell.name] = (cell, time.monotonic())

    def ended(self, cell: Cell) -> None:
        """Note that a cell's worker is free again."""
        _, began = self._began.pop(cell.name)
        self._durations.append(time.monotonic() - began)

    def finished(self, cell: Cell) -> None:
        """Count a cell and print its line."""
        self._done += 1
        left = self._time_left()
        self.say(f"[{self._done}/{self._total}] {cell.name}{f'  ({left} left)' if left and not self._live else ''}")

    def refresh(self) -> None:
        """Draw the live table anew."""
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Group:
        table = Table("running", "since", "last message", box=None, expand=True)
        for cell, began in self._began.values():
            table.add_row(
                Text(cell.name), _clock(time.monotonic() - began), Text(self._message(cell), overflow="ellipsis")
            )
        left = self._time_left()
        return Group(table, Text(f"{self._done} of {self._total} cells{f', about {left} left' if left else ''}"))

    def _message(self, cell: Cell) -> str:
        try:
            lines = self._places.log(cell).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix(f"{cell.name}: ") if lines else ""

    def _time_left(self) -> str:
        """Estimate from the mean duration of the cells that ended here; empty before the first."""
        if not self._durations or self._done >= self._total:
            return ""
        mean = sum(self._durations) / len(self._durations)
        return _clock(mean * (self._total - self._done) / self._parallel)


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"

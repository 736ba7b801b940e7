"""How a bench is going: a live table in a terminal, plain lines elsewhere."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.work import Places


class BenchStatus:
    """Shows running cells with their last message, total progress and, once cells have finished, the time left.

    `left` are the cells to do; `before` maps kinds of cells to the seconds that each finished one took.
    """

    def __init__(
        self,
        console: Console,
        places: Places,
        *,
        left: Iterable[BenchCell],
        before: Mapping[str, list[float]],
        parallel: int,
    ) -> None:
        self._console, self._places, self._parallel = console, places, parallel
        self._left = {cell.name: cell for cell in left}
        self._took = defaultdict(list, {kind: list(seconds) for kind, seconds in before.items()})
        self._done = sum(len(seconds) for seconds in self._took.values())
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
        self._began[cell.name] = (cell, time.monotonic())

    def note_failure(self, cell: BenchCell) -> None:
        """Note that a cell's worker is free again, and its work not done."""
        del self._began[cell.name]

    def given_up(self, name: str) -> None:
        """Note that a cell will not be run any more."""
        self._left.pop(name, None)

    def note_finish(self, cell: BenchCell) -> None:
        """Count a cell and print its line."""
        _, began = self._began.pop(cell.name)
        self._took[cell.kind].append(time.monotonic() - began)
        del self._left[cell.name]
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

    def _message(self, cell: BenchCell) -> str:
        try:
            lines = self._places.log(cell).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix(f"{cell.name}: ") if lines else ""

    def _time_left(self) -> str:
        """Sum what finished cells of the same kind took over the cells left; empty before the first has finished.

        The workers share the sum, but no cell can be shared.
        """
        if not self._took or not self._left:
            return ""
        now = time.monotonic()
        running = {name: now - began for name, (_, began) in self._began.items()}
        seconds = [max(0.0, self._expect_seconds(cell) - running.get(name, 0.0)) for name, cell in self._left.items()]
        return _clock(max(sum(seconds) / self._parallel, *seconds))

    def _expect_seconds(self, cell: BenchCell) -> float:
        """Return the mean of a cell's kind, else of all transfers, else of all cells."""
        if cell.kind in self._took:
            return mean(self._took[cell.kind])
        transfers = [] if cell.kind == "pretrain" else [kind for kind in self._took if kind != "pretrain"]
        return mean(seconds for kind in transfers or self._took for seconds in self._took[kind])


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"

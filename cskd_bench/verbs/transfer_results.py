"""What the cells of one `transfer` came to, as a table or as JSON, however the command ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from cskd_bench.errors import Interrupted
from cskd_bench.verbs.output import Output

if TYPE_CHECKING:
    from cskd_bench.transfer.readiness import AskedCell, AskedCells

HEAD = ("task", "protocol", "seed", "metric", "score", "record, or why there is none")


@dataclass
class CellResult:
    """A cell that was asked for: its score (a fraction) and record (a path), or the reason why there is none."""

    task: str
    protocol: str
    seed: int
    status: Literal["done", "not ready", "failed", "stopped", "not run"] = "not run"
    metric: str | None = None
    value: float | None = None
    record: str | None = None
    reason: str | None = None

    def done(self, metric: str, value: float, record: str | None = None, reason: str | None = None) -> None:
        """Note a score, with its record, or with the reason why it has none."""
        self.status, self.metric, self.value, self.record, self.reason = "done", metric, value, record, reason

    @property
    def score(self) -> str:
        """The score in words, empty where there is none."""
        return "" if self.value is None else f"{100 * self.value:.2f} %"


class CellResults:
    """The results of cells in the order that they were asked for."""

    def __init__(self, asked: "AskedCells") -> None:
        self._asked = asked
        self.cells = [CellResult(spec.name, protocol, seed) for spec, protocol, seed in asked.cells]

    @property
    def any_done(self) -> bool:
        """Whether a cell of this command is finished."""
        return any(cell.status == "done" for cell in self.cells)

    def following(self, run: "Callable[[AskedCell, CellResult], None]") -> "Callable[[AskedCell], None]":
        """Return `run` for run_ready: it notes why a cell has no score."""

        def run_and_note(cell: "AskedCell") -> None:
            position = next(number for number, one in enumerate(self._asked.cells) if one is cell)
            result = self.cells[position]
            try:
                run(cell, result)
            except Interrupted as stopped:
                result.status, result.reason = "stopped", str(stopped)
                raise
            except Exception as error:
                result.status = "not ready" if self._is_unready(position) else "failed"
                result.reason = self._asked.unready.get(position) or str(error) or type(error).__name__
                raise

        return run_and_note

    def _is_unready(self, position: int) -> bool:
        """Whether a cell's data cannot be read; of a cell on its own nobody has looked before."""
        from cskd_bench.transfer.readiness import why_unready

        if position in self._asked.unready or len(self.cells) > 1:
            return position in self._asked.unready
        spec, protocol, _ = self._asked.cells[position]
        return bool(why_unready(spec, protocol))

    @contextmanager
    def shown(self, output: Output, *, as_json: bool, main: bool) -> Iterator[None]:
        """Show on the main rank what the cells came to, however that ended: of several a table, under --json JSON."""
        try:
            yield
        finally:
            if main and as_json:
                output.data(self.as_json())
            elif main and len(self.cells) > 1:
                output.result(self.table())

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints."""
        return {"cells": [asdict(cell) for cell in self.cells]}

    def table(self) -> str:
        """Return a line for each cell, under a head."""
        rows = [HEAD, *(_row(cell) for cell in self.cells)]
        widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
        return "\n".join(_line(row, widths) for row in rows)


def _row(cell: CellResult) -> Sequence[str]:
    record = cell.record.replace("\\", "/").rpartition("/")[2] if cell.record else ""
    because = f"{cell.status}: {cell.reason}" if cell.reason and cell.status != "done" else cell.reason or cell.status
    return (cell.task, cell.protocol, str(cell.seed), cell.metric or "", cell.score, record or because)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([*(f"{word:{width}}" for word, width in zip(row[:-1], widths, strict=True)), row[-1]])

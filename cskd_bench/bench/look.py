"""`bench status`: the benches of a runs folder, live or ended, as their files tell it."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cskd_bench.bench.messages import last_lines, last_message
from cskd_bench.bench.watched import FOLDER, BenchState, CellState, find_states, is_alive, utc_now
from cskd_bench.errors import UserError
from cskd_bench.names import clock, on_one_line

GONE: Final = "gone"  # the word for a bench that ended without a word


@dataclass(frozen=True)
class Look:
    """A bench, and whether its process is there."""

    state: BenchState
    alive: bool

    @property
    def word(self) -> str:
        """Running, done, failed, interrupted or gone."""
        return GONE if self.state.state == "running" and not self.alive else self.state.state


def look_at(runs: Path) -> list[Look]:
    """Read the benches of a folder of runs, those that run first; UserError where there is none."""
    found = list(find_states(runs))
    looks = [Look(state, is_alive(path, state)) for path, state in found if state is not None]
    if not looks and found:
        raise UserError(f"{found[0][0]}: cannot be read, or not by this version; start the bench again")
    if not looks:
        raise UserError(f"{runs / FOLDER}: no bench has left its state here; name its folder of runs with --runs")
    return sorted(looks, key=lambda look: (not look.alive, -look.state.updated.timestamp()))


def as_json(runs: Path, looks: list[Look]) -> dict[str, Any]:
    """Return what `--json` prints: each bench's file with `status`, `alive`, `counts`, and what running cells say."""
    benches = []
    for look in looks:
        said = look.state.model_dump(mode="json")
        for cell, entry in zip(look.state.cells, said["cells"], strict=True):
            if cell.state == "running":
                entry |= _progress(runs, cell)
        counts = dict(Counter(cell.state for cell in look.state.cells))
        benches.append({"status": look.word, "alive": look.alive, "host": look.state.host, "counts": counts} | said)
    return {"runs": str(runs), "benches": benches}


def show(runs: Path, looks: list[Look], console: Console) -> None:
    """Print every bench."""
    for number, look in enumerate(looks):
        if number:
            console.print()
        for line in _sentences(look):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        running = [cell for cell in look.state.cells if cell.state == "running"]
        if running:
            console.print(_table(runs, running, "running" if look.alive else "was running"))
        for cell in look.state.cells:
            if cell.error:
                told = f"{cell.state}, attempt {cell.attempts}" if cell.attempts else cell.state
                line = f"  {told}: {cell.name}: {on_one_line(cell.error)} (see {runs / cell.log})"
                console.print(line, highlight=False, markup=False, soft_wrap=True)


def _sentences(look: Look) -> list[str]:
    state = look.state
    where = f"on {state.host}, process {state.pid}, executor {state.executor}, {state.parallel} at a time"
    took = clock((state.updated - state.started).total_seconds())
    ago = clock((utc_now() - state.updated).total_seconds())
    lines = {
        "running": f"{state.plan}: running for {clock((utc_now() - state.started).total_seconds())}, {where}",
        GONE: f"{state.plan}: ended without a message, last seen {ago} ago ({where}); the same command continues",
        "interrupted": f"{state.plan}: interrupted {ago} ago after {took} ({where}); the same command continues",
        "failed": f"{state.plan}: ended {ago} ago after {took}, with cells that failed ({where})",
        "done": f"{state.plan}: done {ago} ago after {took} ({where})",
    }
    counts = Counter(cell.state for cell in state.cells)
    parts = [f"{count} {word}" for word, count in counts.items()]
    left = "" if state.seconds_left is None else clock(state.seconds_left)
    if look.alive and left:
        parts.append(f"{'more than' if state.at_least else 'about'} {left} left")
    return [lines[look.word], f"  {len(state.cells)} cells: {', '.join(parts)}"]


def _table(runs: Path, running: list[CellState], title: str) -> Table:
    table = Table(title, "since", "of", "attempt", "step", "images/s", "last message", box=None)
    for cell in running:
        said = _progress(runs, cell)
        step, rate = said["step"], said["images_per_second"]
        expected = "-" if cell.expected is None else f"{'about ' if cell.about else ''}{clock(cell.expected)}"
        table.add_row(
            Text(cell.name),
            clock((utc_now() - cell.since).total_seconds()),
            expected,
            str(cell.attempts),
            "-" if step is None else f"{step:,}",
            "-" if rate is None else f"{rate:,.0f}",
            Text(said["message"], overflow="ellipsis"),
        )
    return table


def _progress(runs: Path, cell: CellState) -> dict[str, Any]:
    """Return the last message of a cell's log and, of a pretraining's own log, its step and images per second."""
    message = last_message(runs / cell.log, cell.name, cell.since)
    step, rate = None, None
    for line in reversed(last_lines(runs / cell.name / "log.jsonl", cell.since)):
        try:
            entry = json.loads(line)
            step = step or int(entry["step"])
            rate = float(entry["images_per_second"])
            break
        except (ValueError, KeyError, TypeError):
            continue
    return {"message": message, "step": step, "images_per_second": rate}

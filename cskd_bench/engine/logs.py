"""What a run leaves to look at: JSONL, TensorBoard, a progress bar, and running means without a host sync."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.names import readable

TIMINGS: Final = ("data_wait", "images_per_second", "peak_memory")  # how a run went, not what it learnt


class Meter:
    """Running means of scalars, kept on the device in float64 until somebody asks.

    What one call adds is added in one go: a name always comes with the same others.
    """

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._before = dict(state or {})  # sums and counts of a checkpoint, until their names come again
        self._order = tuple(self._before)  # a run that goes on logs its names as one that never stopped
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """Add one value per name: a float64 vector, as `stack` makes it."""
        if names not in self._sums:
            before = [self._before.pop(name, [0.0, 0.0]) for name in names]
            self._sums[names] = torch.tensor([total for total, _ in before], dtype=values.dtype, device=values.device)
            self._counts[names] = int(before[0][1])
        self._sums[names] = self._sums[names] + values
        self._counts[names] += 1

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Return the means over steps and ranks; this is where the host waits for the device."""
        return {name: total / count for name, (total, count) in self.state(ranks).items()}

    def state(self, ranks: Ranks) -> dict[str, list[float]]:
        """Return sums, averaged over ranks, and counts for a checkpoint that every rank goes on from."""
        if not self._sums and not self._before:
            return {}
        kept = torch.tensor([total for total, _ in self._before.values()], dtype=torch.float64, device=ranks.device)
        totals = ranks.mean(torch.cat([*(sums.to(ranks.device) for sums in self._sums.values()), kept])).tolist()
        names = [*(name for group in self._sums for name in group), *self._before]
        counts = [float(self._counts[group]) for group in self._sums for _ in group]
        counts += [count for _, count in self._before.values()]
        found = {name: [total, count] for name, total, count in zip(names, totals, counts, strict=True)}
        return {name: found[name] for name in dict.fromkeys([*self._order, *names])}


def stack(parts: dict[str, Tensor]) -> tuple[tuple[str, ...], Tensor]:
    """Return scalars as names and one float64 vector on their device."""
    return tuple(parts), torch.stack([value.detach() for value in parts.values()]).double()


class RunLog:
    """log.jsonl and TensorBoard of one run; on resuming, lines after the checkpoint are dropped.

    `scored` is False for a checkpoint whose scores are pending.
    """

    def __init__(self, folder: Path, resume_step: int, *, scored: bool = True) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "log.jsonl"
        if self._path.exists():
            lines = [
                line for line in self._path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= resume_step
            ]
            if not scored and lines and _step_of(lines[-1]) == resume_step and '"top1"' in lines[-1]:
                lines.pop()  # written by a process that was killed after scoring; this one scores again
            write_file(self._path, "".join(f"{line}\n" for line in lines).encode())
        board = str(folder / "tensorboard")
        writable = readable(board) == board  # TensorBoard writes to names in UTF-8 alone
        self._board: Any = SummaryWriter(board, purge_step=resume_step + 1) if writable else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one point per value."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items() if self._board else ():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            board = self._path.parent / "tensorboard"
            reason = error.strerror or error
            raise UserError(f"{self._path} or {board}: cannot be written: {reason}") from error

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board:
            self._board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


class Bar:
    """A progress bar with rate and time left; where there is no terminal, one line per message."""

    def __init__(self, console: Console, progress: Progress | None, task: Any) -> None:
        self._console, self._progress, self._task = console, progress, task

    def advance(self, rate: float, text: str) -> None:
        """Move one step on; `rate` is images per second."""
        if self._progress is not None:
            self._progress.update(self._task, advance=1, rate=f"{rate:,.0f} img/s", text=text)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(title: str, total: int, done: int, show: bool) -> Iterator[Bar]:
    """Show progress on the main rank."""
    console = Console(stderr=True, quiet=not show)
    if not (show and console.is_terminal):
        yield Bar(console, None, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} {task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, rate="", text="")
        yield Bar(console, progress, task)

"""What a run leaves to look at: JSONL, TensorBoard, a progress bar, and running means without a host sync."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.files import write_file


class Meter:
    """Running means of loss parts, kept on the device in float64 until somebody asks."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        for name, (total, count) in (state or {}).items():
            self._sums[name] = torch.tensor(total, dtype=torch.float64)
            self._counts[name] = int(count)

    def add(self, parts: dict[str, Tensor]) -> None:
        """Add one step's parts (scalars)."""
        for name, value in parts.items():
            value = value.detach().double()
            previous = self._sums.get(name)
            self._sums[name] = value if previous is None else previous.to(value.device) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Return the means over steps and ranks; this is where the host waits for the device."""
        if not self._sums:
            return {}
        sums = ranks.mean(
            torch.stack([self._sums[name].to(ranks.device) for name in self._sums])
        )  # as a checkpoint does
        counts = torch.tensor([self._counts[name] for name in self._sums], dtype=sums.dtype)
        return dict(zip(self._sums, (sums.cpu() / counts).tolist(), strict=True))

    def state(self, ranks: Ranks) -> dict[str, list[float]]:
        """Return sums, averaged over ranks, and counts for a checkpoint that every rank goes on from."""
        if not self._sums:
            return {}
        totals = ranks.mean(torch.stack([total.to(ranks.device) for total in self._sums.values()])).tolist()
        return {name: [total, float(self._counts[name])] for name, total in zip(self._sums, totals, strict=True)}


class RunLog:
    """log.jsonl and TensorBoard of one run; on resuming, lines after the checkpoint are dropped.

    `scored` is False for a checkpoint whose scores are pending.
    """

    def __init__(self, folder: Path, resume_step: int, *, scored: bool = True) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "log.jsonl"
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if _step_of(line) <= resume_step]
            if not scored and lines and _step_of(lines[-1]) == resume_step and '"top1"' in lines[-1]:
                lines.pop()  # written by a process that was killed after scoring; this one scores again
            write_file(self._path, "".join(f"{line}\n" for line in lines).encode())
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one point per value."""
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            board = self._path.parent / "tensorboard"
            reason = error.strerror or error
            raise UserError(f"{self._path} or {board}: cannot be written: {reason}") from error

    def close(self) -> None:
        """Flush TensorBoard."""
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} {task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, rate="", text="")
        yield Bar(console, progress, task)

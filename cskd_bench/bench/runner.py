"""Runs a plan's cells: finished ones are never run again, failures are kept and the rest goes on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from cskd_bench.bench.banks import assign_banks
from cskd_bench.bench.executors import Executor
from cskd_bench.bench.plan import BenchCell, Cells, PretrainCell
from cskd_bench.bench.state import Found, write_failures
from cskd_bench.bench.status import BenchStatus
from cskd_bench.bench.work import CellJob, Ended, Places

ATTEMPTS = 2  # within one run of the bench; the next one tries again


@dataclass
class BenchResult:
    """What became of a plan."""

    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def run_plan(
    cells: Cells,
    places: Places,
    executor: Executor,
    *,
    parallel: int,
    threads: int,
    console: Console,
    banks: Path | None = None,
) -> BenchResult:
    """Run a whole plan, at most `parallel` cells of `threads` threads at a time; SIGINT and SIGTERM stop it.

    With a folder of `banks`, each view is labelled once for all methods; banks are built as they are needed.
    """
    queue = Queue(cells, Found(places))
    outcome = BenchResult(done=sum(map(len, queue.finished.values())))
    status = BenchStatus(console, places, left=queue.left, before=queue.finished, parallel=parallel)
    failures: dict[str, dict[str, str]] = {}
    finished = {cell.name for cell in cells.all()} - {cell.name for cell in queue.left}
    bank_of = assign_banks(cells.pretrain, banks) if banks else {}
    try:
        with _sigterm_like_ctrl_c(), status:
            while queue.running or queue.ready:
                while queue.ready and len(queue.running) < parallel and queue.may_start():
                    cell = queue.take()
                    whole_machine = cell is cells.teacher
                    cores = threads * parallel if whole_machine else threads
                    executor.start(CellJob.of(cell, places, cores, bank_of.get(cell.name)))
                    status.note_start(cell)
                for cell, ended in executor.collect_ended():
                    if ended.interrupted:
                        raise KeyboardInterrupt
                    if ended.error:
                        status.note_failure(cell)
                    for name, error in queue.account_for(cell, ended):
                        status.given_up(name)
                        failures[name] = {"cell": name, "error": error, "time": _now()}
                        status.say(f"failed: {name}: {error}")
                    if ended.error and cell in queue.ready:
                        status.say(f"failed once, to be tried again: {cell.name}: {ended.error}")
                    if not ended.error:
                        outcome.done += 1
                        finished.add(cell.name)
                        status.note_finish(cell)
                status.refresh()
    except KeyboardInterrupt:
        outcome.interrupted = True
        executor.stop()
    finally:
        write_failures(places, failures.values(), finished)
        executor.close()
    outcome.failures = {name: entry["error"] for name, entry in failures.items()}
    return outcome


class Queue:
    """Which cells may start: a transfer waits for its pretraining, a pretraining for the plan's own teacher."""

    def __init__(self, cells: Cells, found: Found) -> None:
        self.left: list[BenchCell] = []
        self.finished: dict[str, list[float]] = {}  # kind of cell: the seconds that each finished one took
        done = found.find_finished(cells)
        for cell in cells.all():
            if record := done.get(cell.name):
                self.finished.setdefault(cell.kind, []).append(record.cost.seconds)
            else:
                self.left.append(cell)
        self.running: list[BenchCell] = []
        self.ready: list[BenchCell] = []
        self._teacher = cells.teacher
        self._waiting: dict[str, list[BenchCell]] = {}
        self._attempts: dict[str, int] = {}
        names = {cell.name for cell in self.left}
        for cell in self.left:
            needed = self._needs(cell)
            (self._waiting.setdefault(needed, []) if needed in names else self.ready).append(cell)

    def _needs(self, cell: BenchCell) -> str:
        if not isinstance(cell, PretrainCell):
            return cell.run
        return self._teacher.name if self._teacher and cell is not self._teacher else ""

    def may_start(self) -> bool:
        """Whether nothing runs that needs the machine for itself (the plan's teacher)."""
        return self._teacher not in self.running

    def take(self) -> BenchCell:
        """Move the next cell to the running ones; transfers go first, so that whole columns fill early."""
        transfers = [
            cell for cell in self.ready if not isinstance(cell, PretrainCell) and cell.name not in self._attempts
        ]
        cell = (transfers or self.ready)[0]
        self.ready.remove(cell)
        self.running.append(cell)
        return cell

    def account_for(self, cell: BenchCell, ended: Ended) -> list[tuple[str, str]]:
        """Account for an attempt; return (cell, error) of all that will not be run any more."""
        self.running.remove(cell)
        if not ended.error:
            self.ready += self._waiting.pop(cell.name, [])
            return []
        self._attempts[cell.name] = self._attempts.get(cell.name, 0) + 1
        if self._attempts[cell.name] < ATTEMPTS:
            self.ready.append(cell)
            return []
        what = "the plan's teacher" if cell is self._teacher else "its pretraining"
        return [(cell.name, ended.error), *self._drop(cell.name, f"not run: {what} failed")]

    def _drop(self, name: str, reason: str) -> list[tuple[str, str]]:
        dropped = []
        for cell in self._waiting.pop(name, []):
            dropped += [(cell.name, reason), *self._drop(cell.name, "not run: its pretraining was not run")]
        return dropped


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    for number, _ in previous:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Runs a plan's cells: finished ones are never run again, failures are kept and the rest goes on."""

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cskd_bench.bench.banks import BankUse, assign_banks
from cskd_bench.bench.costs import Costs
from cskd_bench.bench.executor import Executor
from cskd_bench.bench.ledger import Ledger
from cskd_bench.bench.plan import BenchCell, Cells
from cskd_bench.bench.queue import Deadline, Pause, Queue
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.state import Found, how_far, write_failures
from cskd_bench.bench.status import BenchStatus
from cskd_bench.bench.watched import BenchState, Outcome, Watched, utc_now
from cskd_bench.bench.work import CellJob, Ended, Places
from cskd_bench.errors import UserError
from cskd_bench.files import this_machine
from cskd_bench.stopping import hang_up, leave_terminal


@dataclass
class BenchResult:
    """What became of a plan; `left` cells were not started, as the bench's time would not have been enough.

    `attempts`: how often one was started, or taken over from an earlier bench.
    """

    done: int = 0
    left: int = 0
    attempts: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


@dataclass(frozen=True)
class Share:
    """What cells take, and how many run at a time."""

    parallel: int
    resources: Resources


def run_plan(
    cells: Cells,
    places: Places,
    executor: Executor,
    share: Share,
    *,
    console: Console,
    banks: Path | None = None,
    only: Collection[str] | None = None,
    first: Collection[str] = (),
    plan: str = "plan",
    until: float | None = None,
) -> BenchResult:
    """Run a whole plan, or what is asked for of it; SIGINT and SIGTERM stop it, and nothing else does.

    With a folder of `banks`, each view is labelled once for all methods; banks are built as they are needed. Under the
    name `plan` the bench can be looked at. `until`, in seconds of time.monotonic(): no cell starts that would not be
    finished by then.
    """
    found = Found(places)
    queue = Queue(cells, found, only, first)
    bank_of = assign_banks(cells.pretrain, banks) if banks else {}
    costs = Costs(cells, found, queue.done, places, bank_of)
    status = BenchStatus(
        console, places, left=queue.left, done=len(queue.finished), costs=costs, parallel=share.parallel
    )
    ledger = Ledger(queue, costs, places)
    deadline, watched = Deadline(until, costs.longest, time.monotonic), Watched(places.runs, plan)
    return _Bench(cells, places, executor, share, queue, status, bank_of, ledger, watched, deadline).run()


def teacher_resources(own: Resources, share: Share, one_machine: bool) -> Resources:
    """Return what a plan's teacher takes: what the plan names, else as other cells; alone on a machine, all threads."""
    if own != Resources():
        return Resources(own.threads or share.resources.threads, own.gpus or share.resources.gpus)
    if not one_machine:
        return share.resources
    threads, cores = share.resources.threads, len(os.sched_getaffinity(0))
    return Resources(min(threads * share.parallel, max(threads, cores)), share.resources.gpus)


class _Bench:
    """A plan that runs."""

    def __init__(
        self,
        cells: Cells,
        places: Places,
        executor: Executor,
        share: Share,
        queue: Queue,
        status: BenchStatus,
        bank_of: dict[str, BankUse],
        ledger: Ledger,
        watched: Watched,
        deadline: Deadline,
    ) -> None:
        self._cells, self._places, self._executor, self._share = cells, places, executor, share
        self._queue, self._status, self._bank_of = queue, status, bank_of
        self._ledger, self._watched, self._started = ledger, watched, utc_now()
        self._failures: dict[str, dict[str, str]] = {}
        self._finished = set(queue.done)
        self._began: dict[str, float] = {}
        self._pause, self._deadline, self._changed = Pause(), deadline, True
        self._outcome = BenchResult(done=len(queue.finished))

    def run(self) -> BenchResult:
        """Run until nothing is left that can be run."""
        queue, outcome = self._queue, self._outcome
        looked_for = queue.left or self._watched.path.exists()  # a finished bench is only read
        if looked_for and (note := self._watched.begin()):
            self._status.say(note)
        try:
            with _stops_like_ctrl_c(), self._status:
                for cell in self._executor.adopt([self._job(cell) for cell in queue.ready]):
                    self._note_start(cell)
                while queue.running or queue.next(self._deadline.allows):
                    self._start_what_fits()
                    self._show("running", now=self._changed)  # once cells run: estimates may look at large data
                    self._changed = False
                    for cell, ended in self._executor.collect_ended():
                        self._account_for(cell, ended)
                    self._status.refresh()
            if self._deadline.is_set:
                outcome.left = len(queue.wanted) - outcome.done - len(self._failures)
            self._show("interrupted" if outcome.left else "failed" if self._failures else "done")
        except KeyboardInterrupt:
            outcome.interrupted = True
            self._executor.stop()
            self._show("interrupted")
        except Exception:
            if self._executor.one_machine:  # elsewhere cells may go on, or the cluster is gone
                self._executor.stop()
            raise
        finally:
            try:
                self._executor.close()
            finally:
                self._watched.end()
                write_failures(self._places, self._failures.values(), self._finished)
        outcome.failures = {name: entry["error"] for name, entry in self._failures.items()}
        return outcome

    def _show(self, state: Outcome, *, now: bool = True) -> None:
        """Let others see how it is going."""
        self._watched.show(lambda: self._describe(state), now=now)

    def _describe(self, state: Outcome) -> BenchState:
        seconds, whole = self._status.seconds_left()
        return BenchState(
            plan=self._watched.plan,
            machine=this_machine(),
            pid=os.getpid(),
            started=self._started,
            updated=utc_now(),
            state=state,
            executor=type(self._executor).__name__.lower(),
            parallel=self._share.parallel,
            seconds_left=seconds,
            at_least=seconds is not None and not whole,
            cells=self._ledger.cells(running=state == "running"),
        )

    def _start_what_fits(self) -> None:
        queue = self._queue
        while len(queue.running) < self._share.parallel and self._pause.is_over():
            cell = queue.next(self._deadline.allows)
            if cell is None or not self._may_start(cell):
                return
            self._executor.start(self._job(cell))
            self._note_start(cell)

    def _may_start(self, cell: BenchCell) -> bool:
        """Whether a cell has what it needs: a teacher that names no resources of its own has this machine alone."""
        alone = self._executor.one_machine and self._cells.teacher_takes == Resources()
        if alone and self._cells.teacher in self._queue.running:
            return False
        return self._executor.fits(self._resources(cell))

    def _resources(self, cell: BenchCell) -> Resources:
        if cell is not self._cells.teacher:
            return self._share.resources
        return teacher_resources(self._cells.teacher_takes, self._share, self._executor.one_machine)

    def _job(self, cell: BenchCell) -> CellJob:
        return CellJob.of(cell, self._places, self._resources(cell), self._bank_of.get(cell.name))

    def _note_start(self, cell: BenchCell) -> None:
        self._queue.begin(cell, how_far(cell, self._places))
        self._began[cell.name] = time.monotonic()
        self._outcome.attempts += 1
        self._status.note_start(cell)
        self._ledger.note_start(cell)
        self._changed = True

    def _account_for(self, cell: BenchCell, ended: Ended) -> None:
        status, name = self._status, cell.name
        seconds = time.monotonic() - self._began.pop(name)
        pause = self._pause.note(ended, seconds)
        given_up = self._queue.account_for(cell, ended, how_far(cell, self._places))
        self._ledger.note_end(cell, ended, seconds, given_up)
        self._changed = True
        if not ended.error and not ended.interrupted:
            self._outcome.done += 1
            self._finished.add(name)
            status.note_finish(cell)
            return
        status.note_failure(cell)
        for other, error in given_up:
            status.given_up(other)
            self._failures[other] = {"cell": other, "error": error, "time": utc_now().isoformat()}
            status.say(f"failed: {other}: {error}")
        if given_up:
            try:
                write_failures(self._places, self._failures.values(), self._finished)
            except UserError as problem:  # such as a full disk: the rest goes on, and the end tries again
                status.say(str(problem))
        elif ended.error:
            later = f" in {pause:.0f} s" if pause else ""
            status.say(f"failed once, to be tried again{later}: {name}: {ended.error}")
        else:
            status.say(f"stopped by something else, to be started again: {name}")


@contextmanager
def _stops_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        raise KeyboardInterrupt

    numbers = {signal.SIGTERM, signal.SIGINT, *hang_up()}
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

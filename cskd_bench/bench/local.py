"""Cells on this machine: one process each, forked from a server that has paid for the imports."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Final, NamedTuple

from cskd_bench.bench.executor import GRACE, TICK
from cskd_bench.bench.gpus import Gpus
from cskd_bench.bench.plan import BenchCell, TransferCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Ended, work
from cskd_bench.device import gpu_count, gpu_environment
from cskd_bench.errors import UserError
from cskd_bench.transfer.protocols import procedure

PRELOADED: Final = (
    "cskd_bench.bench.work",
    "cskd_bench.cells.pretrain",
    "cskd_bench.transfer.run",
    "torch.utils.tensorboard",
)
_SERVERS: Final = 4  # that a cell tries, one after the other
_SERVER_LOST: Final = 255  # what multiprocessing says of a process whose server is gone, whatever becomes of it


class Running(NamedTuple):
    """A cell, its process, and what it holds."""

    cell: BenchCell
    process: ForkServerProcess
    answer: Connection
    gpus: tuple[int, ...]
    share: float


class Local:
    """Processes of this machine, one for each cell: whatever becomes of one, the next begins afresh.

    They stop when the process that started them is gone.
    """

    one_machine = True

    def __init__(self, parallel: int, gpus: float = 0.0, cells: Sequence[BenchCell] = (), teacher: float = 0.0) -> None:
        asked = os.environ.get("CSKD_BENCH_DEVICE", "")
        count = 0 if asked else gpu_count()
        for word, share in (("--gpus", gpus), ("teacher_gpus", teacher)):
            if share and not count and asked != "cpu":
                todo = f"{asked} is chosen for all" if asked else "it has none; CSKD_BENCH_DEVICE=cpu tries it without"
                raise UserError(f"{word} {share:g}: this machine's GPUs cannot be shared out: {todo}")
        if count and teacher > count:
            raise UserError(f"teacher_gpus {teacher:g}: this machine has {count} GPUs; ask for less in the plan")
        self._gpus = Gpus(count)
        self._gpus.check(gpus, parallel)
        self._running: list[Running] = []
        self._heard: dict[Connection, Ended | None] = {}  # None: it ended without an answer
        self._unstarted: list[tuple[BenchCell, Ended]] = []
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(_imports(cells))

    def adopt(self, jobs: list[CellJob]) -> list[BenchCell]:
        """Return none: cells of this machine end with their bench."""
        return []

    def fits(self, resources: Resources) -> bool:
        return self._gpus.fits(resources.gpus)

    def start(self, job: CellJob) -> None:
        share = job.resources.gpus
        gpus = self._gpus.take(share)
        job = replace(job, environment=job.environment | gpu_environment(gpus, os.environ))
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(job, there))
        try:
            _fork(process)
        except (OSError, EOFError) as error:  # no room for a process, or the server was ended
            why = "the server that forks it was ended (not enough memory?)" if isinstance(error, EOFError) else error
            self._unstarted.append((job.cell, Ended(f"its process could not be started: {why}")))
            self._gpus.give_back(gpus, share)
            here.close()
        else:
            self._running.append(Running(job.cell, process, here, gpus, share))
        finally:
            there.close()

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        unstarted, self._unstarted = self._unstarted, []
        if unstarted:
            return unstarted
        unheard = [one.answer for one in self._running if one.answer not in self._heard]
        running = [one.process.sentinel for one in self._running if one.process.exitcode is None]
        if not unheard and not running:
            time.sleep(0 if self._running else TICK)
        else:
            heard = wait([*unheard, *running], timeout=TICK)
            self._heard |= {answer: _hear(answer) for answer in unheard if answer in heard}
        done = [one for one in self._running if one.process.exitcode is not None and not self._is_orphan(one)]
        return [(one.cell, self._end(one)) for one in done]

    def _is_orphan(self, one: Running) -> bool:
        """Whether a cell lost the server that forked it, and goes on: it is asked to stop, and will be heard."""
        if one.process.exitcode != _SERVER_LOST or one.answer in self._heard:
            return False
        try:
            os.kill(one.process.pid or 0, signal.SIGTERM)
        except ProcessLookupError:
            return False
        return True

    def _end(self, one: Running) -> Ended:
        one.process.join()
        self._running.remove(one)
        self._gpus.give_back(one.gpus, one.share)
        ended = self._heard.pop(one.answer, None) or (_hear(one.answer) if one.answer.poll() else None)
        code = one.process.exitcode or 0
        one.answer.close()
        one.process.close()
        if ended is None and code == -signal.SIGTERM:  # it came before anything could hear it
            return Ended(interrupted=True)
        return ended or Ended(f"its process {_describe(code)} and left no answer")

    def stop(self) -> None:
        until = time.monotonic() + GRACE
        for one in self._running:
            one.process.terminate()
        for one in list(self._running):
            one.process.join(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        for one in list(self._running):
            if one.process.is_alive():
                one.process.kill()
            self._end(one)


def _fork(process: ForkServerProcess) -> None:
    """Start a process; a server that has just been killed is waited for, and another one takes its place."""
    for left in reversed(range(_SERVERS)):
        try:
            with _terminal_ignored():
                forkserver.ensure_running()
            return process.start()
        except (ConnectionRefusedError, EOFError):
            if not left:
                raise
            time.sleep(TICK)


def _hear(answer: Connection) -> Ended | None:
    """Read a cell's answer, all of it; None where its process ended without one, or in the middle of it."""
    try:
        ended = answer.recv()
    except (EOFError, OSError):
        return None
    assert isinstance(ended, Ended)
    return ended


@contextlib.contextmanager
def _terminal_ignored() -> Iterator[None]:
    """Ignore Ctrl-C and a closed terminal for a moment: a server that starts meanwhile always will, as both go to all.

    The bench hears them, and asks its cells to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _describe(code: int) -> str:
    """Say how a process ended without an answer."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (not enough memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _imports(cells: Sequence[BenchCell]) -> list[str]:
    """Return the modules that all cells load, and those of the protocols among these."""
    transfers = {cell.protocol: cell for cell in cells if isinstance(cell, TransferCell)}
    own = {name for cell in transfers.values() for name in procedure(cell.task, cell.protocol).imports()}
    return [*PRELOADED, *sorted(own)]


def _work(job: CellJob, answer: Connection) -> None:
    """Run a cell in a process of its own, which ends when the bench is gone."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    ended = work(job)
    with contextlib.suppress(BrokenPipeError):  # nobody is there to hear it
        answer.send(ended)


def _stop_with_parent() -> None:
    """Ask this process to stop when the one that started it is gone: it writes its checkpoint and ends."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

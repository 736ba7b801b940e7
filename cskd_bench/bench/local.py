"""Cells on this machine: one process each, forked from a server that has paid for the imports."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Final, NamedTuple

from cskd_bench.bench.executor import GRACE, TICK
from cskd_bench.bench.gpus import Gpus
from cskd_bench.bench.plan import BenchCell, Resources, TransferCell
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

    def __init__(self, parallel: int, gpus: float = 0.0, cells: Sequence[BenchCell] = ()) -> None:
        asked = os.environ.get("CSKD_BENCH_DEVICE", "")
        count = 0 if asked else gpu_count()
        if gpus and not count and asked != "cpu":
            todo = f"{asked} is chosen for all" if asked else "it has none; CSKD_BENCH_DEVICE=cpu tries it without"
            raise UserError(f"--gpus {gpus:g}: this machine's GPUs cannot be shared out: {todo}")
        self._gpus = Gpus(count)
        self._gpus.check(gpus, parallel)
        self._running: list[Running] = []
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
        process.start()
        there.close()
        self._running.append(Running(job.cell, process, here, gpus, share))

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        if not self._running:
            time.sleep(TICK)
            return []
        ready = wait([one.process.sentinel for one in self._running], timeout=TICK)
        done = [one for one in self._running if one.process.sentinel in ready]
        return [(one.cell, self._end(one)) for one in done]

    def _end(self, one: Running) -> Ended:
        one.process.join()
        self._running.remove(one)
        self._gpus.give_back(one.gpus, one.share)
        try:
            ended = one.answer.recv() if one.answer.poll() else None
        except EOFError:
            ended = None
        code = one.process.exitcode or 0
        one.answer.close()
        one.process.close()
        if ended is None and code == -signal.SIGTERM:  # it came before anything could hear it
            return Ended(interrupted=True)
        if ended is None:
            return Ended(f"its process {_describe(code)} and left no answer")
        assert isinstance(ended, Ended)
        return ended

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

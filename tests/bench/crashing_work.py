"""Work for test_executors.py: a cell named `killed` takes its own process down, as a lack of memory would."""

import os
import signal
import time
from multiprocessing.connection import Connection

from cskd_bench.bench.work import CellJob, Ended


def work(job: CellJob, answer: Connection) -> None:
    """End well after a while, or not at all."""
    if job.cell.name in ("killed", "stopped"):
        os.kill(os.getpid(), signal.SIGKILL if job.cell.name == "killed" else signal.SIGTERM)
    time.sleep(1.0)
    answer.send(Ended())


def long_winded(job: CellJob, answer: Connection) -> None:
    """Fail with more words than a pipe holds, as a state dict of other keys does."""
    answer.send(Ended("no such key; " * 20_000))


def until_asked(job: CellJob, answer: Connection) -> None:
    """Work until asked to stop."""
    from cskd_bench.stopping import stop_signals

    with stop_signals() as stop:
        (job.places.runs / "began").touch()
        while not stop.requested:
            time.sleep(0.05)
    answer.send(Ended(interrupted=True))


def poisoned(job: CellJob, answer: Connection) -> None:
    """Do the real work, but for one cell that leaves its process as a failed assertion leaves a CUDA context."""
    from cskd_bench.bench import work as real

    tried = job.places.runs / "tried"
    first = job.cell.name == "run0" and not tried.exists()
    if first:
        tried.parent.mkdir(parents=True, exist_ok=True)
        tried.touch()
        os.environ["CONTEXT_IS_DEAD"] = "1"
    if "CONTEXT_IS_DEAD" in os.environ:
        answer.send(Ended("RuntimeError: CUDA error: device-side assert triggered"))
        return
    answer.send(real.work(job))


def look_at_clock(job: CellJob, answer: Connection) -> None:
    """Import what training and transfers need, and answer with the time."""
    import cskd_bench.cells.pretrain
    import cskd_bench.transfer.run  # noqa: F401

    answer.send(Ended(str(time.time())))

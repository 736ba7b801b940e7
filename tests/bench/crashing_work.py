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

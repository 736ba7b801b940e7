"""Work for test_executors.py: a cell named `killed` takes its own process down, as a lack of memory would."""

import os
import signal
import time

from cskd_bench.bench.work import CellJob, Ended


def work(job: CellJob) -> Ended:
    """End well after a while, or not at all."""
    if job.cell.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1.0)
    return Ended()

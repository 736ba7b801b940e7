"""Work for test_ray.py: a cell's own process tells the environment that it has."""

import json
import os
from multiprocessing.connection import Connection

from cskd_bench.bench.work import CellJob, Ended


def work(job: CellJob, answer: Connection) -> None:
    """Answer with the environment, as it would be when the cell begins."""
    answer.send(Ended(json.dumps({**os.environ, **job.environment})))

"""Cells under Slurm, through submitit: each is a job."""

import time
from pathlib import Path
from typing import Any

from cskd_bench.bench.executor import GRACE, TICK
from cskd_bench.bench.plan import BenchCell, Resources
from cskd_bench.bench.work import CellJob, Ended, work
from cskd_bench.errors import UserError


class Slurm:
    """Slurm through submitit: each cell is a job. `parameters` are submitit's (slurm_partition, timeout_min, ...)."""

    one_machine = False

    def __init__(self, threads: int, gpus: float, logs: Path, parameters: dict[str, str | int]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("--executor slurm needs submitit: pip install 'cskd-bench[slurm]'") from error
        given = dict(parameters)
        cluster = str(given.pop("cluster", "slurm"))
        settings: dict[str, str | int] = {"timeout_min": 24 * 60, "cpus_per_task": max(1, threads)}
        if gpus:
            settings["gpus_per_node"] = int(gpus)
        try:
            self._executor: Any = submitit.AutoExecutor(folder=logs, cluster=cluster)
            self._executor.update_parameters(**(settings | given))
        except (ValueError, RuntimeError, NameError, TypeError, AssertionError) as error:
            raise UserError(f"--slurm: submitit refuses cluster {cluster!r}: {error}") from error
        self._running: dict[Any, BenchCell] = {}
        self._refused: list[tuple[BenchCell, Ended]] = []

    def adopt(self, jobs: list[CellJob]) -> list[BenchCell]:
        """Return none."""
        return []

    def fits(self, resources: Resources) -> bool:
        return True

    def start(self, job: CellJob) -> None:
        try:
            self._running[self._executor.submit(work, job)] = job.cell
        except Exception as error:  # submitit's own, of many kinds: an unknown partition, a full queue, no sbatch
            self._refused.append((job.cell, Ended(f"not submitted: {type(error).__name__}: {error}")))

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        refused, self._refused = self._refused, []
        done = [job for job in self._running if job.done()]
        if not done and not refused:
            time.sleep(TICK)
        return [*refused, *((self._running.pop(job), self._outcome(job)) for job in done)]

    def _outcome(self, job: Any) -> Ended:
        try:
            ended = job.result()
        except Exception as error:
            return Ended(f"{type(error).__name__}: {error}")
        assert isinstance(ended, Ended)
        return ended

    def stop(self) -> None:
        for job in self._running:
            job.cancel()
        until = time.monotonic() + GRACE
        while time.monotonic() < until and not all(job.done(force_check=True) for job in self._running):
            time.sleep(TICK)

    def close(self) -> None:
        """Nothing is held."""

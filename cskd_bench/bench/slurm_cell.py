"""What a Slurm job runs: one cell, which requeues itself when its time is up; and the list of jobs it must stand in.

Imports nothing heavy: submitit loads this module before any signal is heard.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cskd_bench.files import locked, write_file
from cskd_bench.stopping import Stop, stop_signals

if TYPE_CHECKING:
    from cskd_bench.bench.work import CellJob, Ended

BEGUN: Final = "cskd-bench: the cell begins"  # in a job's output: from here on it hears signals
MOST_FRUITLESS: Final = 5  # times that a job is stopped before its cell got any further
LOCAL_REQUEUES: Final = 5  # as often as submitit's local cluster starts a job again
LISTED_WITHIN: Final = 60.0  # seconds; as long as submitit waits for its own files


@dataclass(frozen=True)
class JobList:
    """RUNS/slurm/jobs.json: which job each cell has, for the bench that is started next."""

    file: Path  # absolute
    cluster: str

    @property
    def _where(self) -> str:
        return f"local@{socket.gethostname()}" if self.cluster == "local" else self.cluster

    def read(self) -> dict[str, str]:
        """Map the cells that have a job on this cluster to its number."""
        return {cell: entry["job"] for cell, entry in self._read().items() if entry["cluster"] == self._where}

    def _read(self) -> dict[str, dict[str, str]]:
        """Read all that is there; a damaged file counts as none."""
        try:
            entries = json.loads(self.file.read_text(encoding="utf-8"))
            return {cell: {key: str(entry[key]) for key in ("cluster", "job")} for cell, entry in entries.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def note(self, cell: str, job: str) -> None:
        """Add a cell's job; OSError or UserError where that cannot be written."""
        self._change((), {cell: {"cluster": self._where, "job": job}})

    def forget(self, cells: Iterable[str]) -> None:
        """Take cells off the list."""
        self._change(cells, {})

    def _change(self, gone: Iterable[str], new: dict[str, dict[str, str]]) -> None:
        with locked(self.file.parent / ".jobs.lock"):
            entries = self._read()
            kept = {cell: entry for cell, entry in entries.items() if cell not in set(gone)} | new
            if kept != entries:
                write_file(self.file, (json.dumps(kept, indent=1) + "\n").encode())


class SlurmCell:
    """A cell as a job that submitit can requeue: the same job goes on from the cell's own checkpoint."""

    def __init__(self, job: "CellJob", jobs: JobList) -> None:
        self._job, self._name, self._jobs = pickle.dumps(job), job.cell.name, jobs
        self._requeues = self._fruitless = 0

    @property
    def job(self) -> "CellJob":
        """The cell and what it needs; loads all that describes cells."""
        job: CellJob = pickle.loads(self._job)
        return job

    def checkpoint(self) -> Any:
        """Return what submitit runs when the job begins again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> "Ended":
        """Run the cell; where the job's time is up or it is preempted, requeue it and end this process."""
        from submitit import JobEnvironment

        here, stop = JobEnvironment(), Stop()
        number: int = here._usr_sig()
        requeue = signal.getsignal(number)
        with stop_signals(stop, also=number):
            print(BEGUN, flush=True)
            from cskd_bench.bench.state import how_far
            from cskd_bench.bench.work import Ended, work

            if not self._is_listed(here.job_id, stop):
                print(f"job {here.job_id} is not in {self._jobs.file} and does nothing", flush=True)
                return Ended(interrupted=True)
            job = self.job
            os.chdir(job.folder)
            before = how_far(job.cell, job.places)
            ended = work(job, stop)
            if not ended.interrupted or number not in stop.heard:
                return ended
            self._fruitless = 0 if how_far(job.cell, job.places) != before else self._fruitless + 1
            if self._fruitless >= MOST_FRUITLESS:
                todo = "ask for more with --time"
                return Ended(f"its job's time was up {MOST_FRUITLESS} times before it got any further: {todo}")
            self._requeues += 1
            if callable(requeue) and (here.cluster != "local" or self._requeues <= LOCAL_REQUEUES):
                self._hand_over(requeue, number)
            return Ended(interrupted=True)

    def _hand_over(self, requeue: Any, number: int) -> None:
        """Let submitit requeue the job; it ends this process unless the cluster refuses."""
        try:
            requeue(number, None)
        except subprocess.CalledProcessError as error:
            if error.returncode < 0:  # it was ended with this job, which is requeued
                raise SystemExit(-1) from error
            print(f"not requeued: {error}", flush=True)
        except Exception as error:  # requeueing is not allowed here: the bench submits the cell again
            print(f"not requeued: {type(error).__name__}: {error}", flush=True)

    def _is_listed(self, number: str, stop: Stop) -> bool:
        """Whether this is the job that the bench knows for its cell; one that a killed bench lost does not count."""
        latest = time.monotonic() + LISTED_WITHIN
        while self._jobs.read().get(self._name) != number:
            if stop.requested or time.monotonic() > latest:
                return False
            time.sleep(0.2)
        return True

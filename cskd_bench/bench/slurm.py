"""Cells under Slurm, through submitit: each is a job."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Final

from cskd_bench.bench.executor import GRACE, TICK
from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.slurm_cell import BEGUN, JobList, SlurmCell
from cskd_bench.bench.slurm_options import Parameters, is_for_now, names_gpus
from cskd_bench.bench.work import CellJob, Ended
from cskd_bench.errors import UserError
from cskd_bench.stopping import hang_up

PATIENCE: Final = 20.0  # seconds from a job's end without an answer until none is expected any more
FIRST_PAUSE: Final = 2.0  # seconds after Slurm takes no more jobs; doubles each time
LONGEST_PAUSE: Final = 300.0
_TIME_OUTS: Final = 10**6  # as often as it takes: what does not get further ends itself
_WAITING: Final = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "READY")
_STOPPED: Final = ("CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "REQUEUED", "UNKNOWN", "INTERRUPTED")


class Slurm:
    """Each cell is a job of Slurm; `given` are submitit's parameters (slurm_partition, timeout_min, ...).

    Jobs outlive a bench that is killed; the next one with the same folder takes them over.
    """

    one_machine = False

    def __init__(self, takes: Resources, folder: Path, given: Parameters) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise UserError("--executor slurm needs submitit: pip install 'cskd-bench[slurm]'") from error
        self._given = dict(given)
        self._cluster = str(self._given.pop("cluster", "slurm"))
        if self._cluster not in ("slurm", "local"):
            raise UserError(f"--slurm cluster={self._cluster}: is neither slurm nor local")
        self._folder = folder.absolute()
        self._executors: dict[Resources, Any] = {}
        self._executor(takes)
        self._jobs = JobList(self._folder / "jobs.json", self._cluster)
        self._running: dict[Any, BenchCell] = {}
        self._silent: dict[Any, float] = {}  # jobs that seem to have ended without an answer, and since when
        self._ended: list[tuple[BenchCell, Ended]] = []
        self._waiting: list[CellJob] = []
        self._pause, self._until = 0.0, 0.0

    def _executor(self, takes: Resources) -> Any:
        """Return submitit's executor for cells that take this much."""
        import submitit

        if takes in self._executors:
            return self._executors[takes]
        settings: dict[str, str | int] = {"cpus_per_task": max(1, takes.threads, takes.ranks)}
        if takes.gpus and not names_gpus(self._given):
            settings["gpus_per_node"] = ceil(takes.gpus)
        most = {f"{self._cluster}_max_num_timeout": _TIME_OUTS}
        try:
            executor = submitit.AutoExecutor(folder=self._folder, cluster=self._cluster, **most)
            executor.update_parameters(**(settings | self._given))
        except (ValueError, RuntimeError, NameError, TypeError, AssertionError) as error:
            raise UserError(f"--slurm: submitit refuses cluster {self._cluster!r}: {error}") from error
        self._executors[takes] = executor
        return executor

    def adopt(self, jobs: list[CellJob]) -> list[BenchCell]:
        """Take over the jobs that an earlier bench left; one whose cell has other settings now is cancelled."""
        listed, adopted = self._jobs.read(), []
        for job in [job for job in jobs if job.cell.name in listed]:
            there = self._reopen(listed[job.cell.name])
            done = there is not None and there.paths.result_pickle.exists() and self._outcome(there) == Ended()
            if there is None or done:  # nothing is left of it, or its record is gone since
                self._jobs.forget([job.cell.name])
                continue
            if not _is_same(there, job.cell):
                there.cancel(check=False)
            self._running[there] = job.cell
            adopted.append(job.cell)
        return adopted

    def _reopen(self, number: str) -> Any:
        """Return a job of an earlier bench; None where nothing is left of it."""
        from submitit import LocalJob, SlurmJob

        if self._cluster == "slurm":
            job = SlurmJob(folder=self._folder, job_id=number)
            return job if job.paths.submitted_pickle.exists() else None
        controller = _Controller(int(number), self._folder)
        job = LocalJob(folder=self._folder, job_id=number, process=controller)
        return job if controller.poll() is None or job.paths.result_pickle.exists() else None

    def fits(self, resources: Resources) -> bool:
        return not self._waiting

    def start(self, job: CellJob) -> None:
        if not self._submit(job):
            self._waiting.append(job)

    def _submit(self, job: CellJob) -> bool:
        """Submit a job and note its number; return whether there is nothing to wait for."""
        try:
            with _signals_later():
                submitted = self._executor(job.resources).submit(SlurmCell(job, self._jobs))
                self._running[submitted] = job.cell
                self._jobs.note(job.cell.name, submitted.job_id)
        except Exception as error:  # submitit's own, of many kinds: an unknown partition, a full queue, no sbatch
            if is_for_now(str(error)):
                self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
                self._until = time.monotonic() + self._pause
                _tell(job, f"not submitted, again in {self._pause:.0f} s: {error}")
                return False
            self._drop(job.cell)
            self._ended.append((job.cell, Ended(f"not submitted: {type(error).__name__}: {error}")))
        self._pause = 0.0
        return True

    def _drop(self, cell: BenchCell) -> None:
        """Cancel a job that was submitted but could not be noted."""
        for job in [job for job, running in self._running.items() if running is cell]:
            del self._running[job]
            job.cancel(check=False)

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        while self._waiting and time.monotonic() >= self._until and self._submit(self._waiting[0]):
            self._waiting.pop(0)
        ended, self._ended = self._ended, []
        for job in [job for job in self._running if self._has_ended(job)]:
            ended.append((self._running[job], self._outcome(job)))
            self._forget(job)
        if not ended:
            time.sleep(TICK)
        return ended

    def _forget(self, job: Any) -> None:
        cell = self._running.pop(job)
        self._silent.pop(job, None)
        with suppress(OSError, UserError):  # a full disk: the next bench finds that it has ended
            self._jobs.forget([cell.name])

    def _has_ended(self, job: Any) -> bool:
        """Whether a job left its answer, or is over for so long that none is to be expected."""
        over = job.done()
        if job.paths.result_pickle.exists():
            return True
        if self._cluster == "local":
            return bool(over)
        if not over and job.state.upper() in _WAITING:
            self._silent.pop(job, None)
            return False
        now = time.monotonic()
        if now - self._silent.setdefault(job, now) < PATIENCE:
            return False
        if _is_queued(job.job_id):  # it was requeued, or sacct does not know it
            self._silent.pop(job)
            job.watcher.clear()
            return False
        return True

    def _outcome(self, job: Any) -> Ended:
        if not job.paths.result_pickle.exists():
            return _without_answer(job)
        try:
            ended = job.result()
        except Exception as error:
            return Ended(f"{type(error).__name__}: {error}")
        assert isinstance(ended, Ended)
        return ended

    def stop(self) -> None:
        for job in self._running:
            if self._cluster == "slurm":
                job.cancel(check=False)
            else:  # its own `cancel` leaves a second for the checkpoint
                job._process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        left = list(self._running)
        while left and time.monotonic() < until:
            time.sleep(TICK if self._cluster == "local" else 4 * TICK)
            left = [job for job in left if not job.done(force_check=True)]
        for job in [job for job in self._running if job not in left]:
            self._forget(job)
        for job in left:
            job.cancel(check=False)

    def close(self) -> None:
        """Nothing is held."""


class _Controller:
    """The process of a job on submitit's local cluster that another bench started."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self._folder = pid, str(folder)

    def poll(self) -> int | None:
        """Return None while it runs."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return 0
        return None if {b"submitit.local._local", self._folder.encode()} <= set(words) else 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _is_same(job: Any, cell: BenchCell) -> bool:
    """Whether a job runs this cell with these settings."""
    try:
        there = job.submission().function.job.cell
    except Exception:  # of another release
        return False
    return bool(type(there) is type(cell) and replace(there, command="") == replace(cell, command=""))


def _is_queued(number: str) -> bool:
    """Whether Slurm's queue holds a job that is not over; yes where it cannot be asked."""
    command = ["squeue", "-h", "-o", "%T", "-j", number]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        return False
    except subprocess.TimeoutExpired:
        return True
    if done.returncode:
        return "Invalid job id" not in done.stderr
    return any(state in _WAITING for state in done.stdout.split())


def _without_answer(job: Any) -> Ended:
    """Say how a job ended that left no answer."""
    state = (job.state.upper().split() or ["UNKNOWN"])[0].rstrip("+")
    unheard = BEGUN not in (job.stdout() or "") and not (job.stderr() or "").strip()  # it was stopped while starting
    if state in _STOPPED or unheard:
        return Ended(interrupted=True)
    why = {
        "TIMEOUT": "ran out of time before it could stop: ask for more with --time",
        "OUT_OF_MEMORY": "ran out of memory: ask for more with --slurm mem_gb=N",
    }
    return Ended(f"its job {job.job_id} {why.get(state, f'ended ({state}) and left no answer: {job.paths.stderr}')}")


def _tell(job: CellJob, sentence: str) -> None:
    """Add a sentence to a cell's log."""
    with suppress(OSError):
        log = job.places.log(job.cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sentence}\n")


@contextmanager
def _signals_later() -> Iterator[None]:
    """Let requests to stop wait until the block ends, so that no job is submitted and then lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, *hang_up())
    previous = [(number, signal.signal(number, lambda number, _: came.append(number))) for number in numbers]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])

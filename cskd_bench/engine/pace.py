"""How a run goes: the share of time that waits for batches, images a second, memory; and what to do where it waits."""

import os
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from cskd_bench.device import peak_memory
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.job import Job
from cskd_bench.engine.logs import TIMINGS
from cskd_bench.engine.state import Progress
from cskd_bench.launcher import ranks_on_this_machine

WINDOWS: Final = 10  # of the log that are judged together, unless the epoch ends before
LEAST_SECONDS: Final = 10.0  # of training that are judged at all
MUCH: Final = 0.1  # share of the time from which on it is worth a word that the run waits
CHANGE: Final = 0.2  # in that share, up or down, from which on it is worth another


class Pace:
    """The timings of the log's windows, and what follows from them. Time for scores and checkpoints is in none."""

    def __init__(self, job: Job, ranks: Ranks, progress: Progress) -> None:
        self._job, self._ranks, self._progress = job, ranks, progress
        self._begin_window(0.0)
        self._first = True  # window of this process: its workers start in it
        self._seconds, self._waited, self._windows = 0.0, 0.0, 0  # since it was last judged
        self._said: float | None = None
        self.last: dict[str, float] = {}

    def _begin_window(self, waited: float) -> None:
        self._at = (self._progress.step, self._progress.seconds, waited)

    def _window(self, waited: float) -> tuple[int, float, float]:
        """Return steps, seconds and seconds of waiting since the window began."""
        step, seconds, waited_before = self._at
        return self._progress.step - step, max(self._progress.seconds - seconds, 1e-9), waited - waited_before

    def measure(self, waited: float) -> tuple[tuple[str, ...], Tensor]:
        """Return this rank's TIMINGS of the window that ends, as a Meter adds them.

        `waited` is how many seconds the main process has waited for batches so far. Nothing waits for the device here.
        """
        steps, seconds, waiting = self._window(waited)
        rate = steps * self._job.recipe.batch_size / seconds
        values = (waiting / seconds, rate, float(peak_memory(self._ranks.device)))
        return TIMINGS, torch.tensor(values, dtype=torch.float64)

    def close_window(self, means: Mapping[str, float], waited: float, *, epoch_ends: bool) -> str:
        """Remember the window's means over ranks; return what to do in a sentence, empty where there is nothing new."""
        self.last = {name: means[name] for name in (*TIMINGS, "grad_norm") if name in means}
        _, seconds, _ = self._window(waited)
        self._begin_window(waited)
        if self._first:
            self._first = False
            return ""
        self._seconds += seconds
        self._waited += seconds * self.last["data_wait"]
        self._windows += 1
        if self._seconds < LEAST_SECONDS or not (epoch_ends or self._windows >= WINDOWS):
            return ""
        share = self._waited / self._seconds
        self._seconds, self._waited, self._windows = 0.0, 0.0, 0
        if share <= MUCH or (self._said is not None and abs(share - self._said) < CHANGE):
            return ""
        run = self._job.run
        if self._ranks.device.type == "cpu" and not run.workers:
            return ""  # views and model take turns on the same cores, as this run was told to: nothing waits
        self._said = share
        cores = cores_of_rank(self._ranks.world)
        return f"{self._job.title}: {advice(share, run.workers, cores, run.cache)}"

    def rate(self) -> float:
        """Return images per second of the last window; before the first, since the run began."""
        if self.last:
            return self.last["images_per_second"]
        return self._progress.step * self._job.recipe.batch_size / max(self._progress.seconds, 1e-9)

    def shown(self) -> str:
        """Say in a few words how the last window went, apart from its rate; empty before the first."""
        if not self.last:
            return ""
        words = [f"data wait {100 * self.last['data_wait']:.0f} %"]
        if memory := self.last["peak_memory"]:
            words.append(f"{memory / 1e9:,.1f} GB")
        if "grad_norm" in self.last:
            words.append(f"grad_norm {self.last['grad_norm']:.2f}")
        return "  ".join(words)


def advice(share: float, workers: int, cores: int, cache: str) -> str:
    """Say what to do about a share of the time spent waiting, with `workers` and `cores` of each rank."""
    waits = f"{100 * share:.0f} % of the time waits for views"
    makers = f"{workers} workers" if workers > 1 else "1 worker" if workers else "no workers"
    here = f"{makers} on {cores} core{'' if cores == 1 else 's'} a rank"
    todo = f"run.workers={cores} may be faster" if cores > max(workers, 1) else "more cores would be faster"
    if cache == "none":
        todo += ', and so may run.cache = "memory" if the images fit into it'
    return f"{waits} ({here}): {todo}; stop the run, and it continues with another setting"


def cores_of_rank(world: int, environment: Mapping[str, str] | None = None) -> int:
    """Return the processor cores for each rank of this machine: Slurm may have given a rank its own."""
    given = os.environ if environment is None else environment
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = given.get("SLURM_CPUS_PER_TASK", "") if "SLURM_PROCID" in given else ""
    if own.isascii() and own.isdecimal():
        return max(1, min(cores, int(own)))
    return max(1, cores // ranks_on_this_machine(world, given))

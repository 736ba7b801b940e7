"""Cells on a Ray cluster: each is a task, with its share of a node's CPUs and GPUs and a process of its own."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from cskd_bench.bench.executor import GRACE, TICK
from cskd_bench.bench.local import Local
from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.ray_start import (
    RayPlace,
    check_nodes,
    check_room,
    connect,
    cpus_of,
    has_gpus,
    import_ray,
    read_runtime_env,
    words_of,
)
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Ended
from cskd_bench.device import gpu_count
from cskd_bench.errors import UserError
from cskd_bench.stopping import stop_signals

_DEVICE: Final = "CSKD_BENCH_DEVICE"


class Ray:
    """A Ray cluster: the one at an address, or one started here.

    `takes` is what each cell takes: with no number of GPUs asked for, one where the cluster has any. The folders
    `shared` must be seen by every node that can run cells. UserError where that, or enough room, is not there.
    """

    one_machine = False

    def __init__(
        self,
        parallel: int,
        threads: int,
        gpus: float | None,
        teacher: Resources,
        place: RayPlace,
        shared: Sequence[Path],
    ) -> None:
        self._ray: Any = import_ray()
        device = os.environ.get(_DEVICE, "")
        on_cpu = device == "cpu"
        takes = Resources(threads, gpus or 0)
        cpus = max(parallel * cpus_of(takes), cpus_of(teacher))
        shipped = read_runtime_env(place.runtime_env)
        self._folder = _folder(shipped, shared)
        connect(self._ray, place, shipped, cpus, 0 if on_cpu else gpu_count())
        try:
            if gpus is None and not on_cpu and has_gpus(self._ray):
                takes = Resources(threads, 1)
            self.takes, self._on_cpu = takes, on_cpu
            if device and not on_cpu and not takes.gpus:
                raise UserError(f"{_DEVICE}={device}: a cell gets no GPU of this Ray cluster; say --gpus, or unset it")
            teacher = Resources(teacher.threads or threads, teacher.gpus or takes.gpus)
            needs = {"--threads and --gpus": takes, "teacher_threads and teacher_gpus": teacher}
            check_nodes(self._ray, check_room(self._ray, needs), self._folder, shared)
        except BaseException:
            self.close()
            raise
        self._work: Any = self._ray.remote(max_retries=0)(work_apart)
        self._running: dict[Any, BenchCell] = {}

    def adopt(self, jobs: list[CellJob]) -> list[BenchCell]:
        """Return none: cells end with the bench that asked Ray for them."""
        return []

    def fits(self, resources: Resources) -> bool:
        return True

    def start(self, job: CellJob) -> None:
        takes = job.resources
        device = "cuda" if takes.gpus and not self._on_cpu else "cpu"  # Ray says which, by CUDA_VISIBLE_DEVICES
        takes = replace(takes, threads=cpus_of(takes))
        job = replace(job, resources=takes, folder=self._folder, environment={_DEVICE: device})
        task = self._work.options(num_cpus=takes.threads, num_gpus=takes.gpus, name=job.cell.name)
        self._running[task.remote(job)] = job.cell

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        if not self._running:
            time.sleep(TICK)
            return []
        done, _ = self._ray.wait(list(self._running), timeout=TICK)
        return [(self._running.pop(reference), self._outcome(reference)) for reference in done]

    def _outcome(self, reference: Any) -> Ended:
        """Return how a cell ended; one whose node is lost was stopped, and did not fail."""
        errors = self._ray.exceptions
        try:
            ended = self._ray.get(reference)
        except (errors.TaskCancelledError, errors.NodeDiedError, errors.ObjectLostError):
            return Ended(interrupted=True)
        except errors.LocalRayletDiedError as error:
            again = "start it again, and the same command continues"
            raise UserError(f"the bench's own node of the Ray cluster has ended; {again}") from error
        except Exception as error:
            return Ended(words_of(error))
        assert isinstance(ended, Ended)
        return ended

    def stop(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=False)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE)

    def close(self) -> None:
        self._ray.shutdown()


def work_apart(job: CellJob) -> Ended:
    """Run a cell, on a node, in a process of its own; the worker that waits for it serves the next cell too.

    The worker has paid for the imports once, and nothing that a cell breaks outlives it. What asks the worker to stop
    asks the cell.
    """
    with stop_signals() as stop:
        os.environ[_DEVICE] = job.environment[_DEVICE]
        given = {name: value for name, value in os.environ.items() if name.endswith("VISIBLE_DEVICES")}
        processes = _processes()
        try:
            processes.start(replace(job, environment=job.environment | given))
            while not (ended := processes.collect_ended()):
                if stop.requested:
                    processes.stop()
        finally:
            processes.close()
        return ended[0][1]


@cache
def _processes() -> Local:
    return Local(1)


def _folder(shipped: dict[str, Any], shared: Sequence[Path]) -> str:
    """Return where cells work on a node: this folder, or where Ray puts the working_dir that it ships."""
    if "working_dir" not in shipped:
        return str(Path.cwd())
    if relative := [path for path in shared if not path.is_absolute()]:
        raise UserError(
            f"{relative[0]}: with a working_dir in --ray-runtime-env, write runs and results as whole paths"
        )
    return "."

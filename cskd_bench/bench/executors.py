"""Where cells run: processes of this machine, a Ray cluster, or Slurm. All run the same `work`."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.work import CellJob, Ended, work
from cskd_bench.device import take_gpu
from cskd_bench.errors import UserError

TICK = 0.5  # seconds between two looks at what is finished
GRACE = 60.0  # seconds that a stopped cell has for its checkpoint
REACH = 10.0  # seconds in which the head of a Ray cluster must answer


class Executor(Protocol):
    """Starts cells and tells which have ended."""

    def start(self, job: CellJob) -> None:
        """Start a cell and return at once."""

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        """Return the cells that ended since the last call; waits a moment where there are none."""

    def stop(self) -> None:
        """Ask every running cell to write its checkpoint, and wait until all have ended."""

    def close(self) -> None:
        """Let go of the workers."""


class Local:
    """Processes of this machine, each for many cells; they stop when the process that started them is gone.

    Each has a pool of its own, so that one that is killed, for example for its memory, costs its own cell alone.
    """

    def __init__(self) -> None:
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._running: dict[Future[Ended], tuple[int, BenchCell]] = {}

    def start(self, job: CellJob) -> None:
        busy = {slot for slot, _ in self._running.values()}
        slot = next(slot for slot in range(len(busy) + 1) if slot not in busy)
        try:
            future = self._pool(slot).submit(work, job)
        except BrokenProcessPool:  # its process was killed
            del self._pools[slot]
            future = self._pool(slot).submit(work, job)
        self._running[future] = slot, job.cell

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        if slot not in self._pools:
            context = get_context("spawn")
            self._pools[slot] = ProcessPoolExecutor(1, mp_context=context, initializer=_begin_worker, initargs=(slot,))
        return self._pools[slot]

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        done, _ = wait(self._running, timeout=TICK, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future)[1], _outcome(future)) for future in done]

    def stop(self) -> None:
        for worker in active_children():
            worker.terminate()
        wait(self._running, timeout=GRACE)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)


class Ray:
    """A Ray cluster: each cell is a task with its share of CPUs and GPUs. Folders must be shared by all nodes."""

    def __init__(self, parallel: int, threads: int, gpus: float, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--executor ray needs Ray: pip install 'cskd-bench[ray]'") from error
        self._ray: Any = ray
        cpus = max(1, threads)
        if address:
            if address == "auto" and "RAY_ADDRESS" in os.environ:
                _require_listener("RAY_ADDRESS", os.environ["RAY_ADDRESS"])
            _require_listener("--ray-address", address)
            try:
                ray.init(address=address, log_to_driver=False)
            except (ValueError, ConnectionError, RuntimeError) as error:
                raise UserError(f"--ray-address {address}: no Ray cluster can be reached there: {error}") from error
        else:
            ray.init(
                "local",  # whatever $RAY_ADDRESS says
                num_cpus=parallel * cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(work)
        self._running: dict[Any, BenchCell] = {}

    def start(self, job: CellJob) -> None:
        self._running[self._task.remote(job)] = job.cell

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), timeout=TICK)
        return [(self._running.pop(reference), self._outcome(reference)) for reference in done]

    def _outcome(self, reference: Any) -> Ended:
        try:
            ended = self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return Ended(interrupted=True)
        except Exception as error:
            return Ended(f"{type(error).__name__}: {error}")
        assert isinstance(ended, Ended)
        return ended

    def stop(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=False)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE)

    def close(self) -> None:
        self._ray.shutdown()


class Slurm:
    """Slurm through submitit: each cell is a job. `parameters` are submitit's (slurm_partition, timeout_min, ...)."""

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


def _require_listener(named: str, address: str) -> None:
    """UserError where nobody listens at HOST:PORT: Ray would wait there without end, and not hear Ctrl-C."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # `auto`, or what Ray itself refuses
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        todo = "start the cluster with `ray start --head`, or correct the address"
        raise UserError(f"{named} {address}: no Ray cluster answers there ({error}); {todo}") from error


def _outcome(future: "Future[Ended]") -> Ended:
    error = future.exception()
    return future.result() if error is None else Ended(f"{type(error).__name__}: {error}")


def _begin_worker(slot: int) -> None:
    take_gpu(slot)
    _stop_with_parent()


def _stop_with_parent() -> None:
    """Let a worker write its checkpoint and end when the process that started it is gone; idle, it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        while True:  # the first one may be taken for a checkpoint, the next ends the idle worker
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()

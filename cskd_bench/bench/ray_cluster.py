"""Cells on a Ray cluster: each is a task with its share of CPUs and GPUs. Folders must be shared by all nodes."""

import os
import socket
from typing import Any, Final

from cskd_bench.bench.executor import GRACE, TICK
from cskd_bench.bench.plan import BenchCell, Resources
from cskd_bench.bench.work import CellJob, Ended, work
from cskd_bench.errors import UserError

REACH: Final = 10.0  # seconds in which the head of a Ray cluster must answer


class Ray:
    """A Ray cluster: the one at an address, or one started here."""

    one_machine = False

    def __init__(self, parallel: int, threads: int, address: str) -> None:
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
        self._work: Any = ray.remote(max_retries=0)(work)
        self._running: dict[Any, BenchCell] = {}

    def adopt(self, jobs: list[CellJob]) -> list[BenchCell]:
        """Return none."""
        return []

    def fits(self, resources: Resources) -> bool:
        return True

    def start(self, job: CellJob) -> None:
        takes = job.resources
        task = self._work.options(num_cpus=max(1, takes.threads), num_gpus=takes.gpus)
        self._running[task.remote(job)] = job.cell

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

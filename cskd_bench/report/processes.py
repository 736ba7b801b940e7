"""Work shared with forked processes, whose results are the same as those of one."""

import os
import pickle
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


def share(work: Callable[[int], Result], sizes: Sequence[float], processes: int) -> list[Result]:
    """Return [work(0), work(1), ...], one for each size, computed by this process and forked ones.

    `sizes` say how much work each is. Results travel as pickles. What a worker that fails or is killed has not sent
    is computed here, so an error is raised here too. One process computes all where the system cannot fork.
    """
    mine, *others = _split(sizes, processes if hasattr(os, "fork") else 1)
    workers = []
    try:
        for numbers in others:
            with suppress(OSError):  # no more processes
                workers.append(_Worker.start(work, numbers))
        results = {number: work(number) for number in mine}
        for worker in workers:
            results.update(worker.results())
    finally:
        for worker in workers:
            worker.end()
    return [results[number] if number in results else work(number) for number in range(len(sizes))]


def _split(sizes: Sequence[float], processes: int) -> list[list[int]]:
    """Give each process numbers of about the same size in all, the largest first; none goes without, but the first."""
    shares: list[list[int]] = [[] for _ in range(max(1, processes))]
    loads = [0.0] * len(shares)
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        least = loads.index(min(loads))
        shares[least].append(number)
        loads[least] += sizes[number]
    return [shares[0], *filter(None, shares[1:])]


@dataclass(frozen=True)
class _Worker(Generic[Result]):
    """A forked process and the end of the pipe that its results come out of."""

    process: int
    pipe: int

    @classmethod
    def start(cls, work: Callable[[int], Result], numbers: Sequence[int]) -> "_Worker[Result]":
        """Fork a process that computes these numbers, sends them and ends without a word."""
        pipe, other_end = os.pipe()
        try:
            process = os.fork()
        except OSError:
            os.close(pipe)
            os.close(other_end)
            raise
        if process:
            os.close(other_end)
            return cls(process, pipe)
        code = 1
        try:
            os.close(pipe)
            with os.fdopen(other_end, "wb") as file:
                pickle.dump({number: work(number) for number in numbers}, file, pickle.HIGHEST_PROTOCOL)
            code = 0
        finally:
            os._exit(code)  # nothing of the parent's is flushed, closed or printed here

    def results(self) -> dict[int, Result]:
        """Wait for what the worker sends; empty where it ended before it had sent all."""
        with os.fdopen(self.pipe, "rb", closefd=False) as file:
            try:
                return dict(pickle.load(file))
            except (EOFError, pickle.UnpicklingError):
                return {}

    def end(self) -> None:
        """End the worker, also in the middle of its work."""
        os.close(self.pipe)
        os.kill(self.process, signal.SIGKILL)  # it is there until we have waited for it
        os.waitpid(self.process, 0)

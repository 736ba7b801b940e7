"""Runs a plan's cells: finished ones are never run again, failures are kept and the rest goes on."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path

from rich.console import Console

from cskd_bench.bench.plan import Cells, PretrainCell, TransferCell
from cskd_bench.config import TeacherConfig
from cskd_bench.engine.checkpoint import write_atomically
from cskd_bench.errors import UserError


@dataclass(frozen=True)
class Places:
    """Where runs and results go."""

    runs: Path
    results: Path


@dataclass
class Outcome:
    """What became of a plan."""

    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def run_cell(cell: PretrainCell | TransferCell, places: Places, threads: int) -> str:
    """Run one cell in this process and return its record's id."""
    import torch

    from cskd_bench.engine.distributed import Ranks, default_device
    from cskd_bench.engine.pretrain import pretrain
    from cskd_bench.transfer.run import transfer

    if threads:
        torch.set_num_threads(threads)
    ranks = Ranks(0, 1, default_device())
    if isinstance(cell, PretrainCell):
        return pretrain(cell.config, places.runs, places.results, ranks).id
    return transfer(
        cell.task,
        cell.protocol,
        places.runs / cell.run,
        cell.seed,
        results=places.results,
        work=places.runs / "transfer",
        ranks=ranks,
        workers=0,
    ).id


def run_plan(cells: Cells, places: Places, *, parallel: int, threads: int, console: Console) -> Outcome:
    """Run a whole plan with `parallel` processes of `threads` threads each."""
    outcome = Outcome()
    pretrain: Sequence[PretrainCell] = cells.pretrain
    total = len(cells.pretrain) + len(cells.transfer) + (cells.teacher is not None)

    def finished(cell: PretrainCell | TransferCell, error: BaseException | None) -> None:
        if error is None:
            outcome.done += 1
            console.print(f"[{outcome.done}/{total}] {cell.name}", highlight=False, markup=False)
        elif type(error).__name__ == "Interrupted":
            outcome.interrupted = True
        else:
            outcome.failures[cell.name] = f"{type(error).__name__}: {error}"
            console.print(f"failed: {cell.name}: {error}", highlight=False, markup=False)

    with ProcessPoolExecutor(parallel, mp_context=get_context("spawn"), initializer=_stop_with_parent) as pool:

        def submit(cell: PretrainCell | TransferCell) -> "Future[str]":
            alone = cell is cells.teacher  # it has the whole machine
            return pool.submit(run_cell, cell, places, threads * parallel if alone else threads)

        try:
            if cells.teacher is not None:
                _run_all([cells.teacher], submit, finished, outcome)
                weights = places.runs / cells.teacher.name / "model.safetensors"
                pretrain = [taught_by(cell, weights) for cell in cells.pretrain]
            if not outcome.failures and not outcome.interrupted:
                _run_all(pretrain, submit, finished, outcome)
            ready = [cell for cell in cells.transfer if (places.runs / cell.run / "run.json").exists()]
            if not outcome.interrupted:
                _run_all(ready, submit, finished, outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
        if outcome.interrupted:
            pool.shutdown(wait=True, cancel_futures=True)
    failures = places.results / "failures.json"
    if outcome.failures or failures.exists():
        write_atomically(failures, (json.dumps(outcome.failures, indent=1) + "\n").encode())
    return outcome


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


def _run_all(
    cells: Sequence[PretrainCell | TransferCell],
    submit: Callable[[PretrainCell | TransferCell], "Future[str]"],
    finished: Callable[[PretrainCell | TransferCell, BaseException | None], None],
    outcome: Outcome,
) -> None:
    futures = {submit(cell): cell for cell in cells}
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            finished(futures[future], future.exception())
        if outcome.interrupted:
            for future in waiting:
                future.cancel()
            waiting = {future for future in waiting if not future.cancelled()}


def taught_by(cell: PretrainCell, weights: Path) -> PretrainCell:
    """Point a cell at the weights of the plan's own teacher."""
    if not weights.exists():
        raise UserError(f"{weights}: the plan's teacher is not there")
    teacher: TeacherConfig = cell.config.teacher.model_copy(update={"weights": str(weights)})
    return PretrainCell(cell.config.model_copy(update={"teacher": teacher}))

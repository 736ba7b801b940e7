"""What a run has done so far, how it is kept in checkpoints, and requests to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cskd_bench.engine.checkpoint import Checkpoint, load_latest, save_checkpoint
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.logs import Meter
from cskd_bench.engine.provenance import difference
from cskd_bench.errors import UserError


@dataclass
class Progress:
    """What a run has done so far; kept in its checkpoints."""

    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    window: Meter = field(default_factory=Meter)  # since the last line of the log
    epoch: Meter = field(default_factory=Meter)  # since the epoch began


@dataclass(frozen=True)
class Trained:
    """What training changes: weights, their average, the optimiser and the loss scale."""

    student: nn.Module
    ema: Any | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def resume(folder: Path, identity: dict[str, Any], trained: Trained, ranks: Ranks) -> tuple[Progress, list[str]]:
    """Load the newest valid checkpoint of a run into `trained`; the main rank sets damaged ones aside first.

    Returns the progress and what there is to tell. Raises UserError when the recipe is not the checkpoint's.
    """
    if not ranks.is_main:
        ranks.barrier()
    checkpoint, notes = load_latest(folder / "checkpoints")
    if ranks.is_main:
        ranks.barrier()
    if checkpoint is None:
        return Progress(), notes
    state = checkpoint.state
    if changes := difference(state["identity"], identity):
        raise UserError(f"{folder}: was started under another recipe: {changes}; choose another name for this run")
    trained.student.load_state_dict(checkpoint.model)
    if trained.ema is not None:
        trained.ema.module.load_state_dict(checkpoint.ema)
    trained.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])
    trained.scaler.load_state_dict(checkpoint.optimizer["scaler"])
    progress = Progress(
        checkpoint.step,
        state["curve"],
        state["skipped"],
        state["seconds"],
        Meter(state["window"]),
        Meter(state["epoch"]),
    )
    return progress, [*notes, f"going on from step {checkpoint.step}"]


def save(folder: Path, identity: dict[str, Any], progress: Progress, trained: Trained, ranks: Ranks, keep: int) -> None:
    """Write a checkpoint; every rank waits until it is on disk."""
    window, epoch = progress.window.state(ranks), progress.epoch.state(ranks)
    if ranks.is_main:
        state = {
            "identity": identity,
            "curve": progress.curve,
            "skipped": progress.skipped,
            "seconds": progress.seconds,
            "window": window,
            "epoch": epoch,
        }
        averaged = trained.ema.module.state_dict() if trained.ema is not None else {}
        optimizers = {"optimizer": trained.optimizer.state_dict(), "scaler": trained.scaler.state_dict()}
        checkpoint = Checkpoint(progress.step, trained.student.state_dict(), averaged, optimizers, state)
        save_checkpoint(folder / "checkpoints", checkpoint, keep)
    ranks.barrier()


class Stop:
    """Remembers a request to stop; ranks agree on it at fixed steps."""

    def __init__(self) -> None:
        self.requested = False

    def agreed(self, ranks: Ranks, step: int) -> bool:
        if ranks.world > 1 and step % 10:
            return False
        return ranks.any(self.requested)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    previous = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

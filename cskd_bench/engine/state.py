"""What a run has done so far, how it is kept in checkpoints, and requests to stop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cskd_bench.engine.checkpoint import Checkpoint, load_chosen, load_latest, newest, save_checkpoint
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.finite import refuse_non_finite_weights
from cskd_bench.engine.job import Job
from cskd_bench.engine.logs import Meter
from cskd_bench.engine.provenance import difference, now
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
    pending: dict[str, float] | None = None  # the finished epoch's entry of the curve, until it is scored
    skipped_updates: int = 0  # in a row, under a loss scale
    started: str = ""  # UTC, when the first process began; empty in checkpoints that do not say it
    resumptions: int = 0  # how often a process went on from a checkpoint
    evaluation_seconds: float = 0.0  # 0 in checkpoints that do not say it


@dataclass(frozen=True)
class Trained:
    """What training changes: weights, their average, the optimiser, the loss scale, and a method's projector."""

    student: nn.Module
    ema: Any | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    projector: nn.Module | None = None

    def modules(self) -> list[nn.Module]:
        """Return what the optimiser steps."""
        return [self.student] if self.projector is None else [self.student, self.projector]


def resume(folder: Path, identity: dict[str, Any], trained: Trained, ranks: Ranks) -> tuple[Progress, list[str]]:
    """Load the newest valid checkpoint of a run into `trained`; the main rank chooses it, and sets damaged ones aside.

    Returns the progress and what there is to tell. Raises UserError when the recipe is not the checkpoint's, and where
    a rank sees another checkpoint than the main rank.
    """
    checkpoint, notes = _chosen(folder / "checkpoints", ranks)
    if checkpoint is None:
        return Progress(started=now()), notes
    return ranks.together(lambda: _load(folder, identity, trained, checkpoint, notes))


def _chosen(folder: Path, ranks: Ranks) -> tuple[Checkpoint | None, list[str]]:
    """Return the checkpoint that the main rank chooses, as this rank reads it."""
    ours: tuple[Checkpoint | None, list[str]] = (None, [])

    def choose() -> tuple[int, str] | None:
        nonlocal ours
        ours = load_latest(folder)
        return None if ours[0] is None else (ours[0].step, ours[0].checksum)

    choice = ranks.on_main(choose)

    def follow() -> tuple[Checkpoint | None, list[str]]:
        if ranks.is_main:
            return ours
        if choice is not None:
            return load_chosen(folder, *choice), []
        if (step := newest(folder)) is not None:
            raise UserError(
                f"{folder}: this rank sees a checkpoint of step {step}, rank 0 sees none; --runs must be one folder "
                "that all ranks see"
            )
        return None, []

    return ranks.together(follow)


def _load(
    folder: Path, identity: dict[str, Any], trained: Trained, checkpoint: Checkpoint, notes: list[str]
) -> tuple[Progress, list[str]]:
    state = checkpoint.state
    if changes := difference(state["identity"], identity):
        raise UserError(f"{folder}: was started under another recipe: {changes}; choose another name for this run")
    trained.student.load_state_dict(checkpoint.model)
    if trained.ema is not None:
        trained.ema.module.load_state_dict(checkpoint.ema)
    if trained.projector is not None:
        trained.projector.load_state_dict(checkpoint.projector)
    trained.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])
    if checkpoint.optimizer["scaler"]:  # empty where an older release had no loss scale on a CPU
        trained.scaler.load_state_dict(checkpoint.optimizer["scaler"])
    progress = Progress(
        checkpoint.step,
        state["curve"],
        state["skipped"],
        state["seconds"],
        Meter(state["window"]),
        Meter(state["epoch"]),
        state.get("pending"),
        state.get("skipped_updates", 0),
        state.get("started", ""),
        state.get("resumptions", 0) + 1,
        state.get("evaluation_seconds", 0.0),
    )
    return progress, [*notes, f"resuming from step {checkpoint.step}"]


def save(job: Job, progress: Progress, trained: Trained, ranks: Ranks) -> None:
    """Write a checkpoint, and before it the weights of an epoch that is a milestone; every rank waits until it is done.

    UserError for a weight that is not finite, and where all ranks together skipped more images than data.max_skipped.
    """
    window, epoch = progress.window.state(ranks), progress.epoch.state(ranks)
    everyone = ranks.gather(progress.skipped)
    progress.skipped = list(dict.fromkeys(sentence for skipped in everyone for sentence in skipped))

    def write() -> None:
        check_skipped(progress, job.data.max_skipped)
        averaging = None if trained.ema is None else trained.ema.module
        refuse_non_finite_weights(*trained.modules(), averaging)
        if job.keep_milestone and (milestone := _milestone(job, progress)):
            job.keep_milestone(milestone, trained.student, averaging)
        state = {
            "identity": job.identity,
            "curve": progress.curve,
            "skipped": progress.skipped,
            "seconds": progress.seconds,
            "window": window,
            "epoch": epoch,
            "pending": progress.pending,
            "skipped_updates": progress.skipped_updates,
            "started": progress.started,
            "resumptions": progress.resumptions,
            "evaluation_seconds": progress.evaluation_seconds,
        }
        averaged = averaging.state_dict() if averaging is not None else {}
        optimizers = {"optimizer": trained.optimizer.state_dict(), "scaler": trained.scaler.state_dict()}
        projected = trained.projector.state_dict() if trained.projector is not None else {}
        checkpoint = Checkpoint(
            progress.step, trained.student.state_dict(), averaged, optimizers, state, projector=projected
        )
        save_checkpoint(job.folder / "checkpoints", checkpoint, job.run.keep)

    ranks.on_main(write)


def _milestone(job: Job, progress: Progress) -> int | None:
    """Return the epoch that has just ended where its weights stay for good; the last one's are the run's own."""
    every = job.run.keep_every
    if every is None or progress.pending is None:
        return None
    epoch = round(progress.pending["epoch"])
    return epoch if epoch % every == 0 and epoch < job.recipe.epochs else None


def check_skipped(progress: Progress, most: int) -> None:
    """UserError where more than `most` images were skipped."""
    if len(progress.skipped) > most:
        raise UserError(f"{len(progress.skipped)} images were skipped, data.max_skipped is {most}")

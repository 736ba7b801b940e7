"""Scores of an epoch: raw and averaged weights on the validation split, and what patch tokens do."""

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from cskd_bench.data.sources import Source, choose_images
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions, evaluate
from cskd_bench.engine.job import Job
from cskd_bench.engine.patches import patch_measures
from cskd_bench.errors import UserError

MOST_TRAINING_IMAGES: Final = 50_000  # that are scored at the end, evenly spaced over the split
# Of an epoch's entry: what is a share, and what is neither a share nor one of the method's losses.
SHARES: Final = ("spatial_agreement", "top1", "ema_top1", "train_top1")
OTHERS: Final = ("epoch", "lr", "fusion_ratio", "attention_distance", "patch_top1", "grad_norm", "skipped_updates")


def scores_of_epoch(
    job: Job, ranks: Ranks, student: Any, ema: Any, epoch: int, stop: Callable[[], bool]
) -> tuple[dict[str, float], Predictions | None]:
    """Score raw and averaged weights at the end of the epochs that ask for it; Interrupted where `stop` says so."""
    due = (epoch + 1) % job.run.eval_every == 0 or epoch + 1 == job.recipe.epochs
    if job.val is None or not due:
        return {}, None
    val = job.val
    predictions = score_split(job, val, ranks, student, stop)
    scores = {"top1": predictions.top1}
    if ema is not None:
        scores["ema_top1"] = score_split(job, val, ranks, ema.module, stop).top1
    measures = ranks.together(lambda: patch_measures(student, val, _eval_view(job), ranks.device), stop=stop())
    if job.score_training and epoch + 1 == job.recipe.epochs:
        measures |= _training_accuracy(job, ranks, student, stop)
    return scores | measures, predictions


def _training_accuracy(job: Job, ranks: Ranks, student: Any, stop: Callable[[], bool]) -> dict[str, float]:
    """Return `train_top1` of the raw weights on the training split's evaluation views, empty where it cannot be had.

    An image that cannot be read, which training may have left out, takes the score and no more.
    """
    every = -(-len(job.train) // MOST_TRAINING_IMAGES)
    try:
        chosen = np.arange(0, len(job.train), every)
        images = job.train if every == 1 else ranks.together(lambda: choose_images(job.train, chosen))
        return {"train_top1": score_split(job, images, ranks, student, stop).top1}
    except UserError as error:
        if ranks.is_main:
            print(f"{job.title}: the training split is not scored: {error}", file=sys.stderr)
        return {}


def score_split(
    job: Job, split: Source, ranks: Ranks, student: Any, stop: Callable[[], bool] = lambda: False
) -> Predictions:
    """Predict every image of a split with one set of weights."""
    student.eval()
    return evaluate(
        student.predict,
        split,
        _eval_view(job),
        ranks,
        batch_size=job.run.eval_batch_size,
        workers=job.run.workers,
        precision=job.recipe.precision,
        stop=stop,
    )


def _eval_view(job: Job) -> EvalView:
    return EvalView(job.image_size, job.data.eval_crop, job.recipe.augment.interpolation)


def epoch_line(job: Job, entry: dict[str, float], images_per_second: float, timings: str = "") -> str:
    """Say in one line what an epoch came to; `timings` are words on how the end of it went."""
    losses = sorted((name for name in entry if name not in (*SHARES, *OTHERS)), key=lambda name: name != "total")
    shown = [f"{name} {entry[name]:.3f}" for name in losses]
    shown += [f"{name} {100 * entry[name]:.1f} %" for name in SHARES if name in entry]
    title = f"{job.title}: epoch {entry['epoch']:.0f}/{job.recipe.epochs}"
    return "  ".join(filter(None, [title, *shown, f"{images_per_second:,.0f} img/s", timings]))

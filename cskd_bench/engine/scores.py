"""Scores of an epoch: raw and averaged weights on the validation split, and what patch tokens do."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from cskd_bench.data.eval_views import SplitViews
from cskd_bench.data.sources import Source, choose_images
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions, evaluate_all, split_views
from cskd_bench.engine.job import Job
from cskd_bench.engine.patches import has_patch_measures, patch_measures, watched_images
from cskd_bench.errors import UserError

MOST_TRAINING_IMAGES: Final = 50_000  # that are scored at the end, evenly spaced over the split
# Of an epoch's entry: what is a share, and what is neither a share nor one of the method's losses.
SHARES: Final = ("spatial_agreement", "top1", "ema_top1", "train_top1")
OTHERS: Final = ("epoch", "lr", "fusion_ratio", "attention_distance", "patch_top1", "grad_norm", "skipped_updates")


def val_views(job: Job, ranks: Ranks) -> SplitViews | None:
    """Return this rank's views of the validation split, for all evaluations of a run; None without such a split."""
    if job.val is None:
        return None
    size, workers, most = job.run.eval_batch_size, job.run.workers, job.run.eval_memory
    return split_views(job.val, _eval_view(job), ranks, batch_size=size, workers=workers, most_bytes=most)


def scores_of_epoch(
    job: Job, ranks: Ranks, student: Any, ema: Any, views: SplitViews | None, epoch: int, stop: Callable[[], bool]
) -> tuple[dict[str, float], Predictions | None]:
    """Score raw and averaged weights at the end of the epochs that ask for it; Interrupted where `stop` says so."""
    due = (epoch + 1) % job.run.eval_every == 0 or epoch + 1 == job.recipe.epochs
    if views is None or not due:
        return {}, None
    weights = [student] if ema is None else [student, ema.module]
    predictions = score_views(job, views, ranks, weights, stop)
    scores = {name: found.top1 for name, found in zip(("top1", "ema_top1"), predictions, strict=False)}
    measures = _measures_of_patches(job, views, ranks, student, stop)
    if job.score_training and epoch + 1 == job.recipe.epochs:
        measures |= _training_accuracy(job, ranks, student, stop)
    return scores | measures, predictions[0]


def _measures_of_patches(
    job: Job, views: SplitViews, ranks: Ranks, student: Any, stop: Callable[[], bool]
) -> dict[str, float]:
    """Return what patches do, measured by the main rank for all of them; empty where nobody asks for it."""
    if not job.run.patch_measures or not has_patch_measures(student):
        return {}

    def measure() -> dict[str, float]:
        chosen = watched_images(len(views.source))
        labels = torch.as_tensor(views.source.labels[chosen])
        return patch_measures(student, views.pick(chosen), labels, ranks.device)

    found: dict[str, float] = ranks.share(ranks.together(lambda: measure() if ranks.is_main else {}, stop=stop()))
    return found


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
    """Predict every image of a split once, with one set of weights."""
    size, workers = job.run.eval_batch_size, job.run.workers
    views = split_views(split, _eval_view(job), ranks, batch_size=size, workers=workers)
    return score_views(job, views, ranks, [student], stop)[0]


def score_views(
    job: Job, views: SplitViews, ranks: Ranks, weights: Sequence[Any], stop: Callable[[], bool] = lambda: False
) -> list[Predictions]:
    """Predict every image of a split with several sets of weights, in one pass."""
    predict = [model.eval().predict for model in weights]
    return evaluate_all(predict, views, ranks, precision=job.recipe.precision, stop=stop)


def _eval_view(job: Job) -> EvalView:
    return EvalView(job.image_size, job.data.eval_crop, job.recipe.augment.interpolation)


def epoch_line(job: Job, entry: dict[str, float], images_per_second: float, timings: str = "") -> str:
    """Say in one line what an epoch came to; `timings` are words on how the end of it went."""
    losses = sorted((name for name in entry if name not in (*SHARES, *OTHERS)), key=lambda name: name != "total")
    shown = [f"{name} {entry[name]:.3f}" for name in losses]
    shown += [f"{name} {100 * entry[name]:.1f} %" for name in SHARES if name in entry]
    title = f"{job.title}: epoch {entry['epoch']:.0f}/{job.recipe.epochs}"
    return "  ".join(filter(None, [title, *shown, f"{images_per_second:,.0f} img/s", timings]))

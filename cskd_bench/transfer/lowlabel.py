"""Low-label: fine-tuning, or a linear probe, on a small share of every class's labels."""

import math
from typing import Final

import numpy as np

from cskd_bench.cells.cell import Outcome
from cskd_bench.task import FinetuneConfig
from cskd_bench.transfer import finetune, linear
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.subsets import low_label_indices

SHARED: Final = 8  # a batch that this divides can be shared by 2, 4 and 8 ranks


def run(cell: ImageCell) -> Outcome:
    """Score every fraction (`top1_at_0.01`, ...); predictions, curve and headline are those of the last."""
    config, metrics, seconds, evaluation = cell.spec.lowlabel, {}, 0.0, 0.0
    started, resumptions, notes = "", 0, []
    for fraction in config.fractions:
        chosen = low_label_indices(cell.train.labels, fraction, cell.seed)
        outcome = _fit(cell, chosen, fraction)
        predictions = outcome.predictions
        assert predictions is not None
        metrics[f"top1_at_{fraction:g}"] = predictions.top1
        metrics[f"mean_per_class_at_{fraction:g}"] = predictions.mean_per_class
        metrics |= {f"{key}_at_{fraction:g}": value for key, value in outcome.metrics.items()}
        notes += [f"at {fraction:g}: {outcome.note}"] if outcome.note else []
        seconds += outcome.seconds
        evaluation += outcome.evaluation_seconds
        started = started or outcome.started
        resumptions = max(resumptions, outcome.resumptions)  # the first is gone on from whenever a later one is
    return Outcome(
        outcome.predictions,
        metrics,
        outcome.curve,
        seconds=seconds,
        evaluation_seconds=evaluation,
        images_per_second=outcome.images_per_second,
        started=started,
        resumptions=resumptions,
        labels_from=outcome.labels_from,
        labelling_seconds=outcome.labelling_seconds,
        tf32=outcome.tf32,
        note="; ".join(notes),
    )


def _fit(cell: ImageCell, chosen: np.ndarray, fraction: float) -> Outcome:
    if cell.spec.lowlabel.classifier == "linear":
        return linear.fit_linear(cell, chosen)
    folder, recipe = cell.folder / f"{fraction:g}", cell.spec.finetune
    if cell.spec.lowlabel.schedule == "epochs":
        return finetune.tune(cell, chosen, folder, for_few_images(recipe, len(chosen)))
    return finetune.tune(cell, repeat_to_full_length(chosen, len(cell.train.labels)), folder, recipe)


def repeat_to_full_length(chosen: np.ndarray, images: int) -> np.ndarray:
    """Repeat the chosen indices, one after another, to an epoch of `images`: the recipe's steps and schedule stay."""
    return np.resize(chosen, images)


def for_few_images(recipe: FinetuneConfig, images: int) -> FinetuneConfig:
    """Return the recipe with a batch no larger than the images that there are, the same for any number of ranks.

    It is a multiple of 8, which 1, 2, 4 and 8 ranks can share, and of the mixing group; below 8 images it is all.
    """
    if images >= recipe.batch_size:
        return recipe
    group = recipe.augment.mix_group if recipe.augment.mixes else 1
    unit = math.lcm(group, SHARED)
    unit = unit if images >= unit else group
    return recipe.model_copy(update={"batch_size": max(group, images // unit * unit)})

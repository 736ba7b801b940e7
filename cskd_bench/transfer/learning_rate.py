"""Choosing fine-tuning's learning rate on a validation part of train, by whole trainings."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from cskd_bench.errors import UserError
from cskd_bench.task import FinetuneConfig
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.parts import Parts
from cskd_bench.transfer.subsets import stratified_split


@dataclass(frozen=True)
class Trial:
    """What a training at one learning rate came to on validation; `score` is a fraction, `started` UTC."""

    score: float
    seconds: float
    started: str
    resumptions: int

    def row(self) -> np.ndarray:
        """Return it as numbers (1, 4), to be kept."""
        began = datetime.fromisoformat(self.started).timestamp()
        return np.asarray([[self.score, self.seconds, began, self.resumptions]])

    @classmethod
    def of(cls, row: np.ndarray) -> "Trial":
        """Return what numbers (4,) say."""
        began = datetime.fromtimestamp(row[2], UTC).isoformat(timespec="seconds")
        return cls(float(row[0]), float(row[1]), began, int(row[3]))


@dataclass(frozen=True)
class RateChoice:
    """The learning rate that scored best on validation, and the trial of each rate of the grid."""

    rate: float
    metrics: dict[str, float]
    note: str
    trials: list[Trial]


def hold_out(
    labels: np.ndarray, chosen: np.ndarray, recipe: FinetuneConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split the chosen indices of train into (train on, validate on); no image is in both.

    Where images are chosen several times, what is trained on repeats them as often, for at least one batch. UserError
    where no class has an image to spare.
    """
    images = np.unique(chosen)
    kept, held = stratified_split(labels[images], recipe.validation, seed)
    if not len(held):
        raise UserError(
            "finetune.lr_grid: no class has two training images, so none can be held out to choose on; "
            "set finetune.optim.lr instead"
        )
    length = max(len(chosen) * len(kept) // len(images), min(recipe.batch_size, len(chosen)))
    return np.resize(images[kept], length), images[held]


def at_rate(recipe: FinetuneConfig, rate: float) -> FinetuneConfig:
    """Return the recipe with this learning rate and nothing left to choose."""
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"lr": rate}), "lr_grid": ()})


def for_trial(recipe: FinetuneConfig, rate: float) -> FinetuneConfig:
    """Return the recipe of a training that is scored on validation."""
    return at_rate(recipe, rate).model_copy(update={"epochs": recipe.lr_grid_epochs or recipe.epochs})


def choose_rate(
    cell: ImageCell, recipe: FinetuneConfig, folder: Path, held: int, attempt: Callable[[float, Path], Trial]
) -> RateChoice:
    """Return the rate of the grid whose trial scores best on the `held` images; of equal ones the first.

    `attempt` makes a rate's trial in a folder of its own, which goes when the trial is finished. What it came to is
    kept in `folder`, so that it is not made again.
    """
    grid, metric = recipe.lr_grid, cell.spec.metric
    parts = Parts(folder, "trials", len(grid), 1)
    missing = cell.ranks.on_main(parts.missing)
    cell.stop.kept |= len(missing) < len(grid)
    for part in missing:
        cell.heed_stop()
        rate = grid[part.start]
        own = folder / f"lr-{rate}"
        row = attempt(rate, own).row()
        cell.ranks.on_main(partial(parts.put, part, row))
        cell.stop.kept = True
        cell.ranks.on_main(partial(shutil.rmtree, own, ignore_errors=True))
    trials = [Trial.of(row) for row in cell.ranks.on_main(parts.read)]
    scores = [trial.score for trial in trials]
    best = grid[int(np.argmax(scores))]
    edge = _at_edge(grid, best)
    each = {f"validation_{metric}_at_lr_{rate}": score for rate, score in zip(grid, scores, strict=True)}
    metrics = {"chosen_lr": best, f"validation_{metric}": max(scores), "chosen_lr_at_edge": float(bool(edge)), **each}
    told = ", ".join(f"{rate}: {100 * score:.1f} %" for rate, score in zip(grid, scores, strict=True))
    note = f"learning rate {best} chosen by {metric} on {held:,} images held out of train ({told})"
    return RateChoice(best, metrics, "; ".join(filter(None, (note, edge))), trials)


def _at_edge(grid: tuple[float, ...], best: float) -> str:
    edges = {min(grid): "smallest", max(grid): "largest"}
    if len(grid) < 2 or best not in edges:
        return ""
    return f"learning rate {best} is the {edges[best]} of finetune.lr_grid: a better one may lie beyond it"

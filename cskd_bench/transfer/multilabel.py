"""Multi-label classification: each class against the rest, by logistic regression on frozen features, scored by mAP."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from cskd_bench.cells.cell import Outcome
from cskd_bench.engine.logs import progress_bar
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.average_precision import average_precisions, mean_average_precision
from cskd_bench.transfer.features import split_features
from cskd_bench.transfer.linear import converged, doubt_choice, probe
from cskd_bench.transfer.multilabel_cell import MultilabelCell
from cskd_bench.transfer.parts import Parts
from cskd_bench.transfer.segment import split_images


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (n, D) float32 and targets (n, K) int8 of images."""

    features: np.ndarray
    targets: np.ndarray

    def of(self, images: np.ndarray) -> "LabelledFeatures":
        """Return those of some images."""
        return LabelledFeatures(self.features[images], self.targets[images])

    def join(self, other: "LabelledFeatures") -> "LabelledFeatures":
        """Return these and then the others."""
        return LabelledFeatures(
            np.concatenate([self.features, other.features]), np.concatenate([self.targets, other.targets])
        )


def run(cell: MultilabelCell) -> Outcome:
    """Choose C by mAP on validation, fit on all of train and val, report test once; the main rank fits.

    Validation is the task's val split, or a share of train's images.
    """
    began = time.perf_counter()
    config, names = cell.spec.multilabel, cell.train.classes
    found = {name: LabelledFeatures(split_features(cell, split), split.targets) for name, split in cell.splits.items()}
    if "val" in found:
        kept, held = found["train"], found["val"]
        every = kept.join(held)
    else:
        every = found["train"]
        kept, held = map(every.of, split_images(len(every.targets), config.validation, cell.seed))
    scores, ended = fit_classes(cell, "validation", kept, held, config.c_grid)
    grid = [mean_average_precision(average_precisions(held.targets, of_c, config.interpolation)) for of_c in scores]
    best = config.c_grid[int(np.argmax(grid))]
    tested, also_ended = fit_classes(cell, "test", every, found["test"], [best])
    each = average_precisions(found["test"].targets, tested[0], config.interpolation)
    fits = np.concatenate([ended, also_ended])
    unconverged = int(np.sum(~fits))
    doubts, note = doubt_choice("multilabel", config.c_grid, best, config.max_iter, unconverged, fits.size)
    by_class = {f"ap_{name.replace(' ', '_')}": float(value) for name, value in zip(names, each, strict=True)}
    chosen = {"chosen_c": best, "validation_map": max(grid)}
    return Outcome(
        metrics={"map": mean_average_precision(each)} | by_class | chosen | doubts,
        seconds=time.perf_counter() - began,
        scored=len(tested[0, 0]),
        note=note,
    )


def fit_classes(
    cell: MultilabelCell, what: str, train: LabelledFeatures, scored: LabelledFeatures, grid: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each C gives each class on the scored images, (C, K, n), and whether its fit converged, (C, K).

    What one fit gave is kept as soon as it is there. Interrupted when asked to stop.
    """
    classes = train.targets.shape[1]
    key = {"data": [[split.identity, split.stamp] for split in cell.splits.values()], "what": what, "grid": list(grid)}
    parts = Parts(cell.folder, f"{what}-{fingerprint(key)}", len(grid) * classes, 1)
    missing: list[range] = cell.ranks.on_main(parts.missing)
    title = f"{cell.spec.name} {cell.protocol} s{cell.seed}: {what}, fits on {len(train.targets):,} images"
    with progress_bar(title, len(parts.ranges), len(parts.ranges) - len(missing), cell.ranks.is_main) as bar:
        for part in missing:
            cell.heed_stop()
            number, label = divmod(part.start, classes)
            work = partial(_keep_fit, parts, part, train, scored, label, grid[number], cell.spec.multilabel.max_iter)
            cell.ranks.on_main(work)
            bar.advance(0.0, f"C = {grid[number]:g}: {cell.train.classes[label]}")
    rows: np.ndarray = cell.ranks.on_main(parts.read)
    rows = rows.reshape(len(grid), classes, -1)
    return rows[..., :-1], rows[..., -1] > 0


def _keep_fit(
    parts: Parts, part: range, train: LabelledFeatures, scored: LabelledFeatures, label: int, c: float, max_iter: int
) -> None:
    scores, complete = fit_class(train.features, train.targets[:, label], scored.features, c, max_iter)
    parts.put(part, np.append(scores, float(complete))[None])


def fit_class(
    features: np.ndarray, targets: np.ndarray, scored: np.ndarray, c: float, max_iter: int
) -> tuple[np.ndarray, bool]:
    """Return the log-odds of one class for the scored images, (n,), and whether the fit converged.

    Images whose target is 0 are left out. Without images both with and without the class all log-odds are 0.
    """
    counts = targets != 0
    has = targets[counts] > 0
    if has.all() or not has.any():
        return np.zeros(len(scored)), True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        fitted = probe(c, max_iter).fit(features[counts], has)
    scores: np.ndarray = fitted.decision_function(scored)
    return scores.astype(np.float64), converged(fitted)

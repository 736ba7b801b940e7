"""Average precision of classes that are scored one by one."""

from typing import Literal

import numpy as np

Interpolation = Literal["voc2007", "area"]


def average_precision(targets: np.ndarray, scores: np.ndarray, interpolation: Interpolation) -> float:
    """Return the average precision of one class: targets (n,) of 1, 0 and -1, scores (n,).

    Images with 0 do not count. Those of equal scores are taken together. NaN where no image has the class. "voc2007":
    the mean over recall 0, 0.1, ..., 1 of the best precision at that recall or above. "area": the sum over the curve's
    steps of precision times the gain in recall.
    """
    counts = targets != 0
    order = np.argsort(-scores[counts], kind="stable")
    right, ranked = targets[counts][order] > 0, scores[counts][order]
    positives = int(right.sum())
    if not positives:
        return float("nan")
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each group of equal scores
    found = right.cumsum()[last]
    precision = found / (last + 1)
    if interpolation == "area":
        return float((np.diff(found, prepend=0) * precision).sum() / positives)
    return float(np.mean([precision[10 * found >= tenth * positives].max() for tenth in range(11)]))


def average_precisions(targets: np.ndarray, scores: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Return the average precision of each class, (K,): targets (n, K), scores (K, n)."""
    return np.asarray([average_precision(*pair, interpolation) for pair in zip(targets.T, scores, strict=True)])


def mean_average_precision(each: np.ndarray) -> float:
    """Return the mean over the classes that an image has; 0 where there is none."""
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else 0.0

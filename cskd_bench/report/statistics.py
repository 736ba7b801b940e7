"""The arithmetic of a comparison: means, intervals, paired tests, Holm, ranks, power, calibration.

Pure functions on numpy arrays. Scores are fractions. Shape suffixes: S replicates (pretraining
seeds), E examples (test images), R bootstrap resamples. docs/statistics.md says what each number means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.floating[Any]]

LEVEL: Final = 0.05
POWER: Final = 0.8
RESAMPLES: Final = 1000
CALIBRATION_BINS: Final = 15


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error and degrees of freedom; both None where there is no spread to measure."""

    mean: float
    error: float | None
    freedom: float | None

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the two-sided t interval that misses with probability `level`."""
        if self.error is None or self.freedom is None:
            return None
        half = float(special.stdtrit(self.freedom, 1 - level / 2)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self) -> float | None:
        """Return the two-sided p-value of "the mean is zero"; None where no spread was measured."""
        if self.error is None or self.freedom is None:
            return None
        return float(2 * special.stdtr(self.freedom, -abs(self.mean / self.error)))


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Estimate a mean over seeds on this very test set: Student's t with n - 1 degrees of freedom."""
    mean = math.fsum(values) / len(values)
    deviation = spread(values)
    if deviation is None or deviation <= 1e-12:
        return Estimate(mean, None, None)
    return Estimate(mean, deviation / math.sqrt(len(values)), len(values) - 1)


def over_seeds_and_examples(scores_SE: Floats) -> Estimate:
    """Estimate a mean over both seeds and test images, which are crossed (every model sees every image).

    Two-way analysis of variance without replication: with mean squares of seeds, examples and residual,
    var(mean) = (MS_seed + max(MS_example - MS_residual, 0)) / (S E), and Hillis' degrees of freedom
    (S - 1) * (that numerator / MS_seed)^2 (Statistics in Medicine 26, 2007, for random readers and cases).
    Without variation between examples it is the t-test over seeds.
    """
    seeds, examples = scores_SE.shape
    seed_means, example_means = scores_SE.mean(1), scores_SE.mean(0)
    mean = float(seed_means.mean())
    if seeds < 2 or examples < 2:
        return Estimate(mean, None, None)
    squares_seed = examples * float(((seed_means - mean) ** 2).sum())
    squares_example = seeds * float(((example_means - mean) ** 2).sum())
    squares_all = float(((scores_SE - mean) ** 2).sum())
    ms_seed = squares_seed / (seeds - 1)
    ms_example = squares_example / (examples - 1)
    ms_residual = max(squares_all - squares_seed - squares_example, 0.0) / ((seeds - 1) * (examples - 1))
    if ms_seed <= 1e-12:
        return Estimate(mean, None, None)
    numerator = ms_seed + max(ms_example - ms_residual, 0.0)
    return Estimate(mean, math.sqrt(numerator / (seeds * examples)), (seeds - 1) * (numerator / ms_seed) ** 2)


def bootstrap_examples(scores_SE: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return each row's mean on `resamples` resampled test sets, (R, S); one test set serves all rows."""
    rows, examples = scores_SE.shape
    generator = np.random.default_rng((seed, examples))
    means_RS = np.empty((resamples, rows))
    chunk = max(1, 4_000_000 // max(examples, 1))
    scores_ES = np.ascontiguousarray(scores_SE.T, dtype=np.float32)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = generator.integers(0, examples, (count, examples))
        drawn += np.arange(count)[:, None] * examples
        weights_RE = np.bincount(drawn.ravel(), minlength=count * examples).reshape(count, examples)
        means_RS[start : start + count] = weights_RE.astype(np.float32) @ scores_ES / examples
    return means_RS


def bootstrap_interval(means_RS: Floats, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval when seeds are resampled as well as test sets.

    `means_RS` holds per-seed means (or paired differences) on R resampled test sets.
    """
    resamples, seeds = means_RS.shape
    drawn_RS = np.random.default_rng((seed, seeds)).integers(0, seeds, (resamples, seeds))
    means = np.take_along_axis(means_RS, drawn_RS, axis=1).mean(1)
    low, high = np.quantile(means, [level / 2, 1 - level / 2])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided McNemar p-value from the counts of examples that only one model gets right."""
    total = only_first + only_second
    return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), total, 0.5))) if total else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: small ones hold for the whole family at that level."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@lru_cache(maxsize=4096)
def _noncentrality(freedom: float, level: float, power: float) -> float:
    """Return the shift, in standard errors, that a two-sided t-test finds with probability `power`."""
    critical = special.stdtrit(freedom, 1 - level / 2)
    return float(special.nctdtrinc(freedom, 1 - power, critical))


def detectable(estimate: Estimate, level: float = LEVEL, power: float = POWER) -> float | None:
    """Return the smallest true difference that this many seeds find with probability `power`."""
    if estimate.error is None or estimate.freedom is None:
        return None
    return _noncentrality(round(estimate.freedom, 2), level, power) * estimate.error


def ranks(scores: Sequence[float]) -> list[float]:
    """Return ranks, 1 for the highest score; equal scores share their mean rank."""
    return [1 + sum(other > score for other in scores) + (scores.count(score) - 1) / 2 for score in scores]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Reliability bins: share of examples, mean confidence and accuracy per bin, and their weighted gap (ECE)."""

    error: float
    share: tuple[float, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


def calibration(confidence_E: Floats, correct_E: NDArray[np.bool_], bins: int = CALIBRATION_BINS) -> Calibration:
    """Return the expected calibration error over equal-width bins (k/bins, (k+1)/bins] (Guo et al., 2017)."""
    confidence = confidence_E.astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = np.maximum(count, 1)
    mean_confidence = np.bincount(index, confidence, bins) / filled
    accuracy = np.bincount(index, correct_E.astype(np.float64), bins) / filled
    share = count / max(len(confidence), 1)
    error = float((share * np.abs(mean_confidence - accuracy)).sum())
    return Calibration(error, tuple(share.tolist()), tuple(mean_confidence.tolist()), tuple(accuracy.tolist()))


def per_class(label_E: NDArray[np.integer[Any]], correct_E: NDArray[np.bool_]) -> Floats:
    """Return the accuracy of each class, (K,), NaN for a class without examples."""
    classes = int(label_E.max()) + 1
    count = np.bincount(label_E, minlength=classes)
    right = np.bincount(label_E, correct_E.astype(np.float64), classes)
    return np.asarray(np.divide(right, count, out=np.full(classes, np.nan), where=count > 0), dtype=np.float64)

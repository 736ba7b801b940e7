"""The arithmetic of a comparison: means, intervals, paired tests, equivalence, Holm, ranks, power, calibration.

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
CALIBRATION_BINS: Final = 15
NO_SPREAD: Final = 1e-12
CHUNK: Final = 1 << 14  # examples whose products are summed at once


@dataclass(frozen=True, slots=True)
class EstimatedMean:
    """A mean and the two parts of its variance.

    `seed_variance` is estimated with `freedom` degrees of freedom, None for a single seed; where it is 0 nothing
    can be tested. `example_variance`, from the choice of test images, rests on so many images that it counts as
    known.
    """

    mean: float
    seed_variance: float | None
    freedom: int
    example_variance: float = 0.0

    def p_value(self) -> float | None:
        """Return the two-sided p-value of "the mean is zero"; None where no spread was measured."""
        if not self.seed_variance:
            return None
        return _tail(abs(self.mean), self.seed_variance, self.freedom, self.example_variance)

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the two-sided interval of the means that the test at `level` does not refute."""
        if not self.seed_variance:
            return None
        half = _half_width(self.seed_variance, self.freedom, self.example_variance, level)
        return self.mean - half, self.mean + half

    def equivalence_p(self, band: float) -> float | None:
        """Return the p-value of "the mean is at least `band` from zero" (TOST); None where no spread was measured.

        The larger p-value of two one-sided tests (Schuirmann, 1987): below a level, the interval at twice that
        level lies within the band.
        """
        if not self.seed_variance:
            return None
        distance = band - abs(self.mean)
        tail = _tail(abs(distance), self.seed_variance, self.freedom, self.example_variance) / 2
        return tail if distance > 0 else 1 - tail


# Nodes of an integral over the chi-square distribution, equally spaced in log q (the trapezoidal rule
# converges exponentially there); the lower end keeps Student's heavy tails to 1e-10.
_LOG_Q: Final = np.linspace(-50.0, 7.0, 400)


@lru_cache(maxsize=256)
def _chi_square(freedom: int) -> tuple[Floats, Floats]:
    """Return nodes freedom / q and their weights, for q from the chi-square distribution."""
    log_density = freedom / 2 * _LOG_Q - np.exp(_LOG_Q) / 2
    weights = np.exp(log_density - log_density.max())
    return freedom / np.exp(_LOG_Q), weights / weights.sum()


def _tail(distance: float, seed_variance: float, freedom: int, example_variance: float) -> float:
    """Return the generalised p-value (Tsui and Weerahandi, 1989) of a mean that is `distance` from its null.

    The normal tail 2 Phi(-distance / sigma), averaged over sigma^2 = seed_variance * freedom / q +
    example_variance with q chi-square distributed: Student's t without the second part, normal without
    the first.
    """
    if example_variance == 0:
        return float(2 * special.stdtr(freedom, -distance / math.sqrt(seed_variance)))
    ratio, weights = _chi_square(freedom)
    return float(weights @ (2 * special.ndtr(-distance / np.sqrt(seed_variance * ratio + example_variance))))


def _half_width(seed_variance: float, freedom: int, example_variance: float, level: float) -> float:
    """Return the distance whose p-value is `level`; it lies between the larger part and the sum of both."""
    seeds = float(special.stdtrit(freedom, 1 - level / 2)) * math.sqrt(seed_variance)
    if example_variance == 0:
        return seeds
    images = float(special.ndtri(1 - level / 2)) * math.sqrt(example_variance)
    ratio, weights = _chi_square(freedom)
    sigma = np.sqrt(seed_variance * ratio + example_variance)
    distance, end = max(seeds, images), seeds + images
    for _ in range(50):  # Newton's method: the p-value is convex, so that no step from below goes beyond its goal
        z = distance / sigma
        slope = float(weights @ (np.exp(-z * z / 2) / sigma)) * math.sqrt(2 / math.pi)
        step = (float(weights @ (2 * special.ndtr(-z))) - level) / slope
        distance = min(distance + step, end)
        if step < 1e-13 * distance:
            break
    return distance


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def further_run(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Return half the prediction interval of one further value of a normal sample; None for fewer than two values."""
    deviation = spread(values)
    if deviation is None:
        return None
    t = float(special.stdtrit(len(values) - 1, 1 - level / 2))
    return t * deviation * math.sqrt(1 + 1 / len(values))


def second_run(cells: Sequence[Sequence[float]], level: float = LEVEL) -> float | None:
    """Return by how much at most a share 1 - `level` of second runs of a cell differ from the first; None if unknown.

    The spread between runs is pooled over `cells`, each of which has a mean of its own: t s sqrt(2).
    """
    freedom = sum(len(values) - 1 for values in cells if values)
    squares = math.fsum((len(values) - 1) * (spread(values) or 0.0) ** 2 for values in cells if values)
    if freedom == 0 or squares == 0:
        return None
    return float(special.stdtrit(freedom, 1 - level / 2)) * math.sqrt(2 * squares / freedom)


def over_seeds(values: Sequence[float]) -> EstimatedMean:
    """Estimate a mean over seeds on this very test set: Student's t with n - 1 degrees of freedom."""
    mean = math.fsum(values) / len(values)
    deviation = spread(values)
    if deviation is None:
        return EstimatedMean(mean, None, 0)
    return EstimatedMean(mean, deviation**2 / len(values) if deviation > NO_SPREAD else 0.0, len(values) - 1)


def over_seeds_and_examples(scores_SE: Floats) -> EstimatedMean:
    """Estimate a mean over both seeds and test images, which are crossed: every model sees every image.

    Two-way analysis of variance without replication, with mean squares of seeds, examples and residual:
    var(mean) = MS_seed / (S E) + max(MS_example - MS_residual, 0) / (S E). The first part holds the luck of
    seeds and of single predictions; the second what the methods make of these images and not of others.
    """
    return sum_products(scores_SE).estimate()


@dataclass(frozen=True, slots=True)
class Products:
    """All that an analysis of variance needs of scores (S, E): the sums of rows and of products of two rows."""

    examples: int
    sums_S: Floats
    products_SS: Floats

    def combine(self, signs_TS: Floats) -> "Products":
        """Return the same of T signed sums of rows, such as paired differences, without a look at the scores."""
        return Products(self.examples, signs_TS @ self.sums_S, signs_TS @ self.products_SS @ signs_TS.T)

    def estimate(self) -> EstimatedMean:
        """Estimate the mean of all rows over seeds and examples; see `over_seeds_and_examples`."""
        return _crossed_estimate(self.examples, self.sums_S, self.products_SS)


def sum_products(scores_SE: Floats) -> Products:
    """Sum the rows of scores and the products of any two of them, in double precision."""
    seeds, examples = scores_SE.shape
    sums_S, products_SS = np.zeros(seeds), np.zeros((seeds, seeds))
    for start in range(0, examples, CHUNK):
        part = scores_SE[:, start : start + CHUNK].astype(np.float64)
        sums_S += part.sum(1)
        products_SS += part @ part.T
    return Products(examples, sums_S, products_SS)


def _crossed_estimate(examples: int, sums_S: Floats, products_SS: Floats) -> EstimatedMean:
    seeds, seed_means = len(sums_S), sums_S / examples
    by_seed = over_seeds(seed_means.tolist())
    if by_seed.seed_variance is None or examples < 2:
        return by_seed
    of_mean = seeds * examples * by_seed.mean**2
    squares_seed = examples * float(((seed_means - by_seed.mean) ** 2).sum())
    squares_example = float(products_SS.sum()) / seeds - of_mean
    squares_all = float(np.trace(products_SS)) - of_mean
    ms_example = squares_example / (examples - 1)
    ms_residual = (squares_all - squares_seed - squares_example) / ((seeds - 1) * (examples - 1))
    example_variance = max(ms_example - ms_residual, 0.0) / (seeds * examples)
    return EstimatedMean(by_seed.mean, by_seed.seed_variance, by_seed.freedom, example_variance)


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


def detectable(estimate: EstimatedMean, level: float = LEVEL, power: float = POWER) -> float | None:
    """Return the smallest true difference that a test at `level` with this spread finds with probability `power`.

    `level` is the corrected one where there are several tests. Exact where one part of the variance stands alone;
    the two parts add in squares.
    """
    if not estimate.seed_variance:
        return None
    seeds = _noncentrality(estimate.freedom, level, power)
    images = float(special.ndtri(1 - level / 2) + special.ndtri(power))
    return math.sqrt(seeds**2 * estimate.seed_variance + images**2 * estimate.example_variance)


@lru_cache(maxsize=256)
def _noncentrality(freedom: int, level: float, power: float) -> float:
    """Return the shift, in standard errors, that a two-sided t-test finds with probability `power`."""
    critical = special.stdtrit(freedom, 1 - level / 2)
    return float(special.nctdtrinc(freedom, 1 - power, critical))


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
    confidence, total_N, right_N = _by_value(confidence_E, correct_E)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, total_N, bins)
    filled = np.maximum(count, 1)
    mean_confidence = np.bincount(index, confidence * total_N, bins) / filled
    accuracy = np.bincount(index, right_N, bins) / filled
    share = count / max(len(confidence_E), 1)
    error = float((share * np.abs(mean_confidence - accuracy)).sum())
    return Calibration(error, tuple(share.tolist()), tuple(mean_confidence.tolist()), tuple(accuracy.tolist()))


def _by_value(
    confidence_E: Floats, correct_E: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.number[Any]], NDArray[np.number[Any]]]:
    """Return the values of confidences with how many examples have each, and how many of these are correct."""
    if confidence_E.dtype != np.float16:
        return confidence_E.astype(np.float64), np.ones(len(confidence_E)), correct_E.astype(np.float64)
    bits_E = confidence_E.view(np.uint16)  # few values: counting them is quicker than computing with each
    total_N = np.bincount(bits_E)
    right_N = np.bincount(np.compress(correct_E, bits_E), minlength=len(total_N))
    (bits_N,) = total_N.nonzero()
    return bits_N.astype(np.uint16).view(np.float16).astype(np.float64), total_N[bits_N], right_N[bits_N]


def per_class(label_E: NDArray[np.integer[Any]], correct_E: NDArray[np.bool_]) -> Floats:
    """Return the accuracy of each class, (K,), NaN for a class without examples."""
    classes = int(label_E.max()) + 1
    count = np.bincount(label_E, minlength=classes)
    right = np.bincount(label_E, correct_E.astype(np.float64), classes)
    return np.asarray(np.divide(right, count, out=np.full(classes, np.nan), where=count > 0), dtype=np.float64)

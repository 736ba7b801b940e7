"""The mCE of ImageNet-C: errors under each corruption, as shares of AlexNet's (arXiv 1903.12261)."""

from collections.abc import Mapping, Sequence
from typing import Final

SEVERITIES: Final = 5
ALEXNET_ERRORS: Final[Mapping[str, float]] = {  # top-1 errors, means over the severities, of the paper's authors
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def mean_corruption_error(accuracies: Mapping[str, float], classes: int) -> float | None:
    """Return the mCE, a ratio, lower is better: `accuracies` is top-1 by `corruption/severity`.

    None where the parts are not all 15 corruptions at all 5 severities, or not of the 1,000 classes of ImageNet-1k,
    which AlexNet's errors are of.
    """
    if classes != 1000 or set(accuracies) != {f"{name}/{level}" for name in ALEXNET_ERRORS for level in _levels()}:
        return None
    errors = {name: sum(1 - accuracies[f"{name}/{level}"] for level in _levels()) for name in ALEXNET_ERRORS}
    ratios = [errors[name] / SEVERITIES / alexnet for name, alexnet in ALEXNET_ERRORS.items()]
    return sum(ratios) / len(ratios)


def _levels() -> Sequence[int]:
    return range(1, SEVERITIES + 1)

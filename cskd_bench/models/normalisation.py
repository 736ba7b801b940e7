"""Which mean and standard deviation a model's pixels are normalised with."""

from typing import Any

from cskd_bench.data.mixing import IMAGENET_MEAN, IMAGENET_STD


def normalisation(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) that a timm model was made for; ImageNet's where it does not say, as timm takes them."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))

"""What is done to a view, drawn from its key alone: a crop, a flip and a short list of operations."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cskd_bench.config import AugmentConfig
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.errors import UserError

_OPERATION_DRAWS = 2**32  # added to the repeat: a part of the counter that crops never reach


class Operation(IntEnum):
    """The 15 operations of timm's increasing RandAugment, and blur; NONE leaves the view alone."""

    NONE = -1
    AUTO_CONTRAST = 0
    EQUALIZE = 1
    INVERT = 2
    ROTATE = 3  # degrees, counter-clockwise
    POSTERIZE = 4  # bits kept
    SOLARIZE = 5  # threshold
    SOLARIZE_ADD = 6  # added below 128
    COLOR = 7  # factor
    CONTRAST = 8  # factor
    BRIGHTNESS = 9  # factor
    SHARPNESS = 10  # factor
    SHEAR_X = 11  # factor
    SHEAR_Y = 12  # factor
    TRANSLATE_X = 13  # fraction of the width
    TRANSLATE_Y = 14  # fraction of the height
    BLUR = 15  # radius in pixels, PIL's deviation of a Gaussian; not of RandAugment


@dataclass(frozen=True)
class Operations:
    """What happens to n views, layer after layer."""

    kinds: np.ndarray  # (n, layers) int8, values of Operation
    values: np.ndarray  # (n, layers) float32


@dataclass(frozen=True)
class RandAugment:
    """The numbers of a policy `rand-m<magnitude>-n<layers>-p<probability>-mstd<deviation>-inc1`."""

    magnitude: float = 10.0
    layers: int = 2
    probability: float = 0.5
    deviation: float = 0.0


def parse_rand_augment(text: str) -> RandAugment:
    """Read timm's notation; UserError for policies that only the PIL engine knows."""
    found = dict(re.findall(r"-(mstd|m|p|inc|n)(\d+(?:\.\d+)?)", text))
    known = "rand" + "".join(f"-{key}{value}" for key, value in found.items())
    if known != text or found.get("inc") != "1" or not found.get("n", "2").isdigit():
        raise UserError(
            f"recipe.augment.auto_augment {text!r}: the tensor engine takes the form rand-m9-mstd0.5-inc1; "
            'use recipe.augment.engine = "pil"'
        )
    defaults = RandAugment()
    return RandAugment(
        float(found.get("m", defaults.magnitude)),
        int(found.get("n", defaults.layers)),
        float(found.get("p", defaults.probability)),
        float(found.get("mstd", defaults.deviation)),
    )


def check_policy(augment: AugmentConfig) -> None:
    """Raise UserError where `augment` asks for a policy that only the PIL engine knows."""
    if augment.policy == "randaugment" and augment.auto_augment:
        parse_rand_augment(augment.auto_augment)


def draw_operations(keys: Sequence[ViewKey], augment: AugmentConfig, seed: int) -> Operations:
    """Draw each view's operations: RandAugment's, or else (as timm) colour jitter, which one of three may precede."""
    three = augment.policy == "three"
    policy = parse_rand_augment(augment.auto_augment) if augment.auto_augment and not three else None
    rows = []
    for key in keys:
        draw = generator(seed, Stream.VIEW, key.epoch, key.index, key.repeat + _OPERATION_DRAWS)
        first = [_one_of_three(draw)] if three else []
        rows.append(first + (_rand_augment(draw, policy) if policy else _jitter(draw, augment.color_jitter)))
    table = np.array(rows, dtype=np.float32).reshape(len(rows), -1, 2)
    return Operations(table[:, :, 0].astype(np.int8), table[:, :, 1])


def _one_of_three(draw: np.random.Generator) -> tuple[Operation, float]:
    """Grey, solarise at 128 or blur with a radius of 0.1 to 2 px, with equal probability, as in timm's policy 3a."""
    radius = draw.uniform(0.1, 2.0)
    return ((Operation.COLOR, 0.0), (Operation.SOLARIZE, 128.0), (Operation.BLUR, radius))[draw.integers(0, 3)]


def _jitter(draw: np.random.Generator, strength: float) -> list[tuple[Operation, float]]:
    """Brightness, contrast and colour in random order, each by a factor within 1 -+ strength."""
    if strength == 0:
        return [(Operation.NONE, 0.0)]
    kinds = draw.permutation([Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR])
    return [(Operation(kind), draw.uniform(max(0.0, 1 - strength), 1 + strength)) for kind in kinds]


def _rand_augment(draw: np.random.Generator, policy: RandAugment) -> list[tuple[Operation, float]]:
    chosen = []
    for kind in draw.integers(0, 15, policy.layers):
        level = min(max(draw.normal(policy.magnitude, policy.deviation), 0.0), 10.0) / 10
        sign = 1.0 if draw.random() < 0.5 else -1.0
        applied = draw.random() < policy.probability
        chosen.append((Operation(kind), operation_value(Operation(kind), level, sign)))
        if not applied:
            chosen[-1] = (Operation.NONE, 0.0)
    return chosen


def operation_value(kind: Operation, level: float, sign: float) -> float:
    """Map a level in [0, 1] to the operation's argument, in timm's increasing scales."""
    match kind:
        case Operation.ROTATE:
            return sign * 30 * level
        case Operation.POSTERIZE:
            return 4 - int(4 * level)
        case Operation.SOLARIZE:
            return 256 - min(256, int(256 * level))
        case Operation.SOLARIZE_ADD:
            return min(128, int(110 * level))
        case Operation.COLOR | Operation.CONTRAST | Operation.BRIGHTNESS | Operation.SHARPNESS:
            return max(0.1, 1 + sign * 0.9 * level)
        case Operation.SHEAR_X | Operation.SHEAR_Y:
            return sign * 0.3 * level
        case Operation.TRANSLATE_X | Operation.TRANSLATE_Y:
            return sign * 0.45 * level
        case _:
            return 0.0


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the decoded image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_crop(key: ViewKey, size: tuple[int, int], augment: AugmentConfig, seed: int) -> Crop:
    """Draw a random resized crop (arXiv 1409.4842) of an image of (height, width), and a flip.

    Ten tries as in torchvision; then the largest centred box within the aspect ratios.
    """
    height, width = size
    draw = generator(seed, Stream.VIEW, key.epoch, key.index, key.repeat)
    flip = bool(draw.random() < augment.hflip)
    low, high = augment.crop_ratio
    for _ in range(10):
        area = height * width * draw.uniform(*augment.crop_scale)
        ratio = math.exp(draw.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(draw.integers(0, height - h + 1)), int(draw.integers(0, width - w + 1)), h, w, flip)
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return Crop((height - h) // 2, (width - w) // 2, h, w, flip)

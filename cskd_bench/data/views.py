"""Views: one augmented image, as uint8 pixels, from timm's own transforms under keyed randomness."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train
from torch import Tensor

from cskd_bench.config import AugmentConfig
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.errors import UserError

_THREE: Final = "3a"  # timm's name for one of grey, solarise and blur, the one policy that leaves colour jitter

_LONGEST: Final = 32  # times its shorter side that an image may be long before its ends are cut off


class TrainView:
    """Crop, flip, the policy's operations and colour jitter of one image: (3, S, S) uint8."""

    def __init__(self, augment: AugmentConfig, image_size: int, seed: int) -> None:
        self._seed = seed
        policy = _THREE if augment.policy == "three" else augment.auto_augment or None
        try:
            self._transform: Any = transforms_imagenet_train(
                img_size=image_size,
                scale=augment.crop_scale,
                ratio=augment.crop_ratio,
                hflip=augment.hflip,
                color_jitter=augment.color_jitter,
                auto_augment=policy,
                interpolation=augment.interpolation,
                use_prefetcher=True,
            )
        except (AssertionError, ValueError, KeyError) as error:
            raise UserError(
                f"augment.auto_augment: timm cannot read {augment.auto_augment!r} {error}; "
                "write it as in rand-m9-mstd0.5-inc1, or leave it empty"
            ) from error

    def __call__(self, image: Image.Image, epoch: int, index: int, repeat: int) -> Tensor:
        """Make one view, inside `unchanged_generators`: it seeds those that timm's transforms draw from."""
        seed = integer_seed(self._seed, Stream.VIEW, epoch, index, repeat)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would visit every accelerator, for a millisecond
        return torch.as_tensor(self._transform(image))


class EvalView:
    """Resize so that the centre crop of S x S keeps `crop` of the shorter side: (3, S, S) uint8."""

    def __init__(self, image_size: int, crop: float = 0.875, interpolation: str = "bicubic") -> None:
        self.settings = (image_size, crop, interpolation)
        self._transform: Any = transforms_imagenet_eval(
            img_size=image_size, crop_pct=crop, interpolation=interpolation, use_prefetcher=True
        )

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.as_tensor(self._transform(_cut_ends(image)))


def _cut_ends(image: Image.Image) -> Image.Image:
    """Return an image with the ends of a very long one cut off: no crop sees them, and resized they fill the memory."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Put the global generators back as they were, once for all the views that are made inside."""
    cpu = torch.default_generator
    states = random.getstate(), np.random.get_state(), cpu.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        cpu.set_state(states[2])

"""Random erasing, mixup and cutmix on a batch of views, keyed per sample and per mixing group.

Pixels are float in [0, 1]; a model normalises its own input. Mixing groups are fixed runs of
`mix_group` positions of the global batch, so 1 and N ranks mix the same pairs; the partner of
member i is member i + g/2 (mod g), which keeps the copies of repeated augmentation apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.config import AugmentConfig
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.device import to_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewKey:
    """What identifies a view: epoch, position in the epoch's order, image and its repeat."""

    epoch: int
    position: int
    index: int
    repeat: int


def to_float(pixels: Tensor) -> Tensor:
    """Map uint8 to [0, 1]."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def erase(views: Tensor, keys: Sequence[ViewKey], augment: AugmentConfig, seed: int) -> Tensor:
    """Random erasing (arXiv 1708.04896) with normal noise, in place; area 2-33 %, aspect 0.3-3.3."""
    if augment.erasing == 0:
        return views
    height, width = views.shape[-2:]
    for row, key in enumerate(keys):
        draw = generator(seed, Stream.ERASE, key.epoch, key.index, key.repeat)
        if draw.random() >= augment.erasing:
            continue
        for _ in range(10):
            area = draw.uniform(0.02, 1 / 3) * height * width
            aspect = np.exp(draw.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
            if h < height and w < width:
                top, left = int(draw.integers(0, height - h + 1)), int(draw.integers(0, width - w + 1))
                patch = _noise(height, width, int(draw.integers(2**16)), views.device)[:, :h, :w]
                views[row, :, top : top + h, left : left + w] = patch
                break
    return views


def _noise(height: int, width: int, offset: int, device: torch.device) -> Tensor:
    """Cut a window of a fixed noise table, so that noise is the same on every device."""
    table = _noise_table(device)
    rows, columns = table.shape[1] - height, table.shape[2] - width
    if rows < 0 or columns < 0:
        table = table.repeat(1, -(-height // table.shape[1]) + 1, -(-width // table.shape[2]) + 1)
        rows, columns = table.shape[1] - height, table.shape[2] - width
    top, left = offset % (rows + 1), (offset // (rows + 1)) % (columns + 1)
    return table[:, top : top + height, left : left + width]


@cache
def _noise_table(device: torch.device, size: int = 512) -> Tensor:
    """Return (3, size, size) of mean + std * N(0, 1): timm's pixel noise before normalisation."""
    noise = generator(0, Stream.ERASE).standard_normal((3, size, size), dtype=np.float32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.from_numpy(noise) * std + mean).to(device)


def mix(
    views: Tensor, labels: Tensor, keys: Sequence[ViewKey], augment: AugmentConfig, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) within groups; returns views and (B, K) soft labels.

    Soft labels are smoothed as in timm: off value s/K, on value 1 - s + s/K. `views` (B, 3, S, S) is
    changed in place; B must be a multiple of the mixing group when mixing is on.
    """
    targets = _smooth_one_hot(labels, num_classes, augment.smoothing)
    if not augment.mixes:
        return views, targets
    group = augment.mix_group
    assert len(views) % group == 0, f"{len(views)} views are not whole mixing groups of {group}"
    partner = torch.arange(len(views), device=views.device).view(-1, group).roll(group // 2, dims=1).flatten()
    weight = torch.ones(len(views))
    boxes = []
    for start in range(0, len(views), group):
        kind, value = _draw(augment, seed, keys[start])
        if kind == "cutmix":
            top, left, bottom, right = _box(value, views.shape[-2:], seed, keys[start])
            boxes.append((start, top, left, bottom, right))
        elif kind == "mixup":
            weight[start : start + group] = value
    lam = weight.clone()
    weight = to_device(weight, views.device).view(-1, 1, 1, 1)
    partners = views[partner]
    views.mul_(weight).add_(partners * (1 - weight))
    for start, top, left, bottom, right in boxes:
        rows = slice(start, start + group)
        views[rows, :, top:bottom, left:right] = partners[rows, :, top:bottom, left:right]
        lam[rows] = 1 - (bottom - top) * (right - left) / (views.shape[-1] * views.shape[-2])
    lam = to_device(lam, views.device).view(-1, 1)
    return views, targets * lam + targets[partner] * (1 - lam)


def _draw(augment: AugmentConfig, seed: int, key: ViewKey) -> tuple[str, float]:
    draw = generator(seed, Stream.MIX, key.epoch, key.position)
    if draw.random() >= augment.mix_probability:
        return "none", 1.0
    both = augment.mixup > 0 and augment.cutmix > 0
    cut = draw.random() < augment.mix_switch if both else augment.cutmix > 0
    alpha = augment.cutmix if cut else augment.mixup
    return ("cutmix" if cut else "mixup"), float(draw.beta(alpha, alpha))


def _box(lam: float, size: Sequence[int], seed: int, key: ViewKey) -> tuple[int, int, int, int]:
    """Draw a box of area 1 - lam around a uniform centre, clipped to the image (timm's rand_bbox)."""
    height, width = size
    ratio = np.sqrt(1 - lam)
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    draw = generator(seed, Stream.MIX, key.epoch, key.position, 1)
    y, x = int(draw.integers(0, height)), int(draw.integers(0, width))
    top, bottom = np.clip([y - cut_h // 2, y + cut_h // 2], 0, height)
    left, right = np.clip([x - cut_w // 2, x + cut_w // 2], 0, width)
    return int(top), int(left), int(bottom), int(right)


def _smooth_one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    return F.one_hot(labels, num_classes).float().mul_(1 - smoothing).add_(smoothing / num_classes)


def resize_view(views: Tensor, image_size: int) -> Tensor:
    """Shrink square views (B, 3, S, S) to `image_size` with antialiasing; the identity at equal size."""
    if views.shape[-1] == image_size:
        return views
    if views.shape[-1] % image_size == 0:
        return F.avg_pool2d(views, views.shape[-1] // image_size)
    return F.interpolate(views, size=(image_size, image_size), mode="bilinear", antialias=True, align_corners=False)

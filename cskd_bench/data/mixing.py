"""Mixup and cutmix on a batch of views: drawn by workers, keyed per mixing group; mixed on the device.

Pixels are float in [0, 1]; a model normalises its own input. Mixing groups are fixed runs of
`mix_group` positions of the global batch, so 1 and N ranks mix the same pairs; the partner of
member i is member i + g/2 (mod g), which keeps the copies of repeated augmentation apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.config import AugmentConfig
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.device import to_device

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Mixing:
    """How the groups of a batch are mixed, a row each."""

    group: int  # views in a group
    weights: np.ndarray  # (groups,) float32, mixup's share of a view's own pixels; 1 without mixup
    shares: np.ndarray  # (groups,) float32, share of a view's own label
    boxes: np.ndarray  # (groups, 4) int64, cutmix's top, left, bottom, right; empty without cutmix


def to_float(pixels: Tensor) -> Tensor:
    """Map uint8 to [0, 1]."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def draw_mixing(keys: Sequence[ViewKey], augment: AugmentConfig, size: int, seed: int) -> Mixing | None:
    """Draw for views of size x size; None where nothing is mixed, as where they are no whole groups."""
    group = augment.mix_group
    if not augment.mixes or len(keys) % group:
        return None
    heads = keys[::group]
    weights = np.ones(len(heads), np.float32)
    shares = np.ones(len(heads), np.float32)
    boxes = np.zeros((len(heads), 4), np.int64)
    for row, key in enumerate(heads):
        kind, value = _draw(augment, seed, key)
        if kind == "mixup":
            weights[row] = shares[row] = value
        elif kind == "cutmix":
            top, left, bottom, right = boxes[row] = _box(value, (size, size), seed, key)
            shares[row] = 1 - (bottom - top) * (right - left) / (size * size)
    return Mixing(group, weights, shares, boxes)


def mix(views: Tensor, targets: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) of views (B, 3, S, S), in place, and of labels (B, K)."""
    group, device = mixing.group, views.device
    partner = torch.arange(len(views), device=device).view(-1, group).roll(group // 2, dims=1).flatten()
    both = np.repeat(np.stack([mixing.weights, mixing.shares]), group, axis=1)
    weight, share = to_device(torch.from_numpy(both), device).unbind()
    weight, share = weight.view(-1, 1, 1, 1), share.view(-1, 1)
    partners = views[partner]
    views.mul_(weight).add_(partners * (1 - weight))
    if device.type == "cpu":
        _copy_boxes(views.numpy(), partners.numpy(), mixing)
    else:
        cut_at_once(views, partners, mixing)
    return views, targets * share + targets[partner] * (1 - share)


def _copy_boxes(views: np.ndarray, partners: np.ndarray, mixing: Mixing) -> None:
    """Copy box by box, which is the least that a CPU can do."""
    for row, (top, left, bottom, right) in enumerate(mixing.boxes.tolist()):
        if bottom > top and right > left:
            cut = slice(row * mixing.group, (row + 1) * mixing.group), slice(None), slice(top, bottom)
            views[*cut, left:right] = partners[*cut, left:right]


def cut_at_once(views: Tensor, partners: Tensor, mixing: Mixing) -> None:
    """Copy all boxes of cutmix by one masked write, in place: a GPU's launches do not grow with the groups."""
    side = views.shape[-1]
    boxes = to_device(torch.from_numpy(np.repeat(mixing.boxes, mixing.group, axis=0)), views.device)
    top, left, bottom, right = boxes.T.view(4, -1, 1, 1)
    along = torch.arange(side, device=views.device)
    y, x = along.view(1, side, 1), along.view(1, 1, side)
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    views.copy_(torch.where(inside[:, None], partners, views))


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


def smooth_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return (B, K) soft labels as timm smooths them: off value s/K, on value 1 - s + s/K."""
    off, on = torch.tensor([0.0, 1.0]).mul_(1 - smoothing).add_(smoothing / num_classes).tolist()
    return torch.full((len(labels), num_classes), off, device=labels.device).scatter_(1, labels[:, None], on)


def resize_view(views: Tensor, image_size: int) -> Tensor:
    """Shrink square views (B, 3, S, S) to `image_size` with antialiasing; the identity at equal size."""
    if views.shape[-1] == image_size:
        return views
    if views.shape[-1] % image_size == 0:
        return F.avg_pool2d(views, views.shape[-1] // image_size)
    return F.interpolate(views, size=(image_size, image_size), mode="bilinear", antialias=True, align_corners=False)

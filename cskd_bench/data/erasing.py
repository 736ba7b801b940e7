"""Random erasing (arXiv 1708.04896) with normal noise: boxes are drawn by workers, erased on the device.

Pixels are float in [0, 1]. Every draw is keyed by its view; noise is a window of one fixed table, so that it is the
same on every device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cskd_bench.config import AugmentConfig
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.mixing import IMAGENET_MEAN, IMAGENET_STD
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.device import to_device

_TABLE_SIDE: Final = 512
_TRIES: Final = 10


@dataclass(frozen=True)
class Erasing:
    """Which views of a batch lose a box to noise: a row (view, top, left, height, width, window) each."""

    rows: np.ndarray  # (k, 6) int64; window is where the noise lies in the table


def draw_erasing(keys: Sequence[ViewKey], augment: AugmentConfig, size: int, seed: int) -> Erasing | None:
    """Draw the boxes of views of size x size: area 2 to 33 %, aspect 0.3 to 3.3; None where nothing is erased."""
    rows = []
    for view, key in enumerate(keys if augment.erasing else ()):
        draw = generator(seed, Stream.ERASE, key.epoch, key.index, key.repeat)
        if draw.random() < augment.erasing and (box := _draw_box(draw, size)):
            rows.append((view, *box))
    return Erasing(np.array(rows, dtype=np.int64)) if rows else None


def _draw_box(draw: np.random.Generator, size: int) -> tuple[int, int, int, int, int] | None:
    for _ in range(_TRIES):
        area = draw.uniform(0.02, 1 / 3) * size * size
        aspect = np.exp(draw.uniform(np.log(0.3), np.log(1 / 0.3)))
        h, w = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if h < size and w < size:
            top, left = int(draw.integers(0, size - h + 1)), int(draw.integers(0, size - w + 1))
            return top, left, h, w, int(draw.integers(2**16))
    return None


def erase(views: Tensor, erasing: Erasing | None) -> Tensor:
    """Erase the boxes of square views (B, 3, S, S), in place; returns them."""
    if erasing is None:
        return views
    table = _noise_table(views.shape[-1], views.device)
    tops, lefts = _windows(erasing.rows[:, 5], table.shape[-1] - views.shape[-1] + 1)
    if views.device.type == "cpu":
        _copy_boxes(views.numpy(), erasing.rows, table.numpy(), tops, lefts)
        return views
    return erase_at_once(views, erasing, table, np.stack([tops, lefts]))


def _windows(offsets: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return top and left of each window in a table that has `places` of them a side."""
    return offsets % places, (offsets // places) % places


def _copy_boxes(views: np.ndarray, rows: np.ndarray, table: np.ndarray, tops: np.ndarray, lefts: np.ndarray) -> None:
    """Copy box by box, which is the least that a CPU can do."""
    for (view, top, left, h, w, _), row, column in zip(rows.tolist(), tops.tolist(), lefts.tolist(), strict=True):
        views[view, :, top : top + h, left : left + w] = table[:, row : row + h, column : column + w]


def erase_at_once(views: Tensor, erasing: Erasing, table: Tensor, windows: np.ndarray) -> Tensor:
    """Erase all boxes by one masked write, in place: a GPU's launches do not grow with the boxes.

    `table` (3, T, T) holds the noise, `windows` (2, k) where each view's begins in it.
    """
    device, side = views.device, views.shape[-1]
    packed = to_device(torch.from_numpy(np.concatenate([erasing.rows.T[:5], windows])), device)
    view, top, left, height, width, row, column = packed.view(7, -1, 1, 1)
    along = torch.arange(side, device=device)
    y, x = along.view(1, side, 1) - top, along.view(1, 1, side) - left
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    place = (row + y.clamp(0, side - 1)) * table.shape[-1] + column + x.clamp(0, side - 1)
    noise = table.flatten(1)[:, place].transpose(0, 1)
    view = view.flatten()
    views[view] = torch.where(inside[:, None], noise, views[view])
    return views


@cache
def _noise_table(size: int, device: torch.device) -> Tensor:
    """Return (3, T, T) of mean + std * N(0, 1), timm's pixel noise before normalisation; T is larger than `size`."""
    noise = generator(0, Stream.ERASE).standard_normal((3, _TABLE_SIDE, _TABLE_SIDE), dtype=np.float32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    table = torch.from_numpy(noise) * std + mean
    if size > _TABLE_SIDE:
        times = -(-size // _TABLE_SIDE) + 1
        table = table.repeat(1, times, times)
    return table.to(device)

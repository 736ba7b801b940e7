"""Erasing and mixing as the release before did them: view by view, drawn in the main process. Slow and obvious."""

import numpy as np
import torch

from cskd_bench.data.erasing import _noise_table
from cskd_bench.data.mixing import _box, _draw, smooth_labels
from cskd_bench.data.randomness import Stream, generator


def erase(views, keys, augment, seed):
    """Return the views (B, 3, H, W) with the boxes of their keys erased, in place."""
    height, width = views.shape[-2:]
    for row, key in enumerate(keys if augment.erasing else ()):
        draw = generator(seed, Stream.ERASE, key.epoch, key.index, key.repeat)
        if draw.random() >= augment.erasing:
            continue
        for _ in range(10):
            area = draw.uniform(0.02, 1 / 3) * height * width
            aspect = np.exp(draw.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
            if h < height and w < width:
                top, left = int(draw.integers(0, height - h + 1)), int(draw.integers(0, width - w + 1))
                patch = noise(height, width, int(draw.integers(2**16)), views.device)[:, :h, :w]
                views[row, :, top : top + h, left : left + w] = patch
                break
    return views


def noise(height, width, offset, device):
    """Cut a window of the fixed noise table."""
    table = _noise_table(max(height, width), device)
    rows, columns = table.shape[1] - height, table.shape[2] - width
    top, left = offset % (rows + 1), (offset // (rows + 1)) % (columns + 1)
    return table[:, top : top + height, left : left + width]


def mix(views, labels, keys, augment, num_classes, seed):
    """Return mixed views (B, 3, H, W), in place, and soft labels (B, K)."""
    targets = smooth_labels(labels, num_classes, augment.smoothing)
    if not augment.mixes:
        return views, targets
    group = augment.mix_group
    partner = torch.arange(len(views)).view(-1, group).roll(group // 2, dims=1).flatten()
    weight = torch.ones(len(views))
    boxes = []
    for start in range(0, len(views), group):
        kind, value = _draw(augment, seed, keys[start])
        if kind == "cutmix":
            boxes.append((start, *_box(value, views.shape[-2:], seed, keys[start])))
        elif kind == "mixup":
            weight[start : start + group] = value
    share = weight.clone()
    weight = weight.view(-1, 1, 1, 1)
    partners = views[partner]
    views.mul_(weight).add_(partners * (1 - weight))
    for start, top, left, bottom, right in boxes:
        rows = slice(start, start + group)
        views[rows, :, top:bottom, left:right] = partners[rows, :, top:bottom, left:right]
        share[rows] = 1 - (bottom - top) * (right - left) / (views.shape[-1] * views.shape[-2])
    share = share.view(-1, 1)
    return views, targets * share + targets[partner] * (1 - share)

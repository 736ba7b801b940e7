"""What patch tokens do along training: how far they look, and how many of them name the image's label."""

import copy
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cskd_bench.data.mixing import to_float
from cskd_bench.models.attention import attention_maps, has_standard_attention, mean_distance
from cskd_bench.models.students import Student

IMAGES: Final = 64
AT_ONCE: Final = 16  # attention of all blocks is kept for so many images


def watched_images(images: int) -> np.ndarray:
    """Return the evenly spaced indices of the images of a split that are measured, at most IMAGES."""
    return np.unique(np.linspace(0, images - 1, IMAGES).round().astype(int))


@torch.no_grad()
def patch_measures(student: Any, pixels: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """Measure views (n, 3, S, S), uint8, with labels (n,), in fp32; {} for what `has_patch_measures` denies.

    `attention_distance`: pixels between a patch and what it attends to, the mean over heads, blocks and images.
    `patch_top1`: the fraction of patches whose own answer (Student.patch_map) is the image's label.
    """
    if not has_patch_measures(student):
        return {}
    watched = copy.deepcopy(student).eval()  # a compiled student would be compiled again for the hooks
    patch = student.model.patch_embed.patch_size[0]
    far: list[float] = []
    named: list[float] = []
    for some, wanted in zip(torch.split(pixels, AT_ONCE), torch.split(labels, AT_ONCE), strict=True):
        views = to_float(some.to(device))
        maps = attention_maps(watched, views)
        distances = [mean_distance(weights, student.grid, patch, student.model.num_prefix_tokens) for weights in maps]
        far += [float(torch.stack(distances).mean())] * len(some)
        said = watched.patch_map(views).argmax(1)
        named += (said == wanted.to(device)[:, None, None]).float().mean((1, 2)).tolist()
    return {"attention_distance": float(np.mean(far)), "patch_top1": float(np.mean(named))}


def has_patch_measures(student: Any) -> bool:
    """Say whether a model is a plain ViT under one of the methods."""
    return isinstance(student, Student) and has_standard_attention(student.model)

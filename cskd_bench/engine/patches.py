"""What patch tokens do along training: how far they look, and how many of them name the image's label."""

import copy
from typing import Any, Final

import numpy as np
import torch

from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.models.attention import attention_maps, has_standard_attention, mean_distance
from cskd_bench.models.students import Student

IMAGES: Final = 64
AT_ONCE: Final = 16  # attention of all blocks is kept for so many images


@torch.no_grad()
def patch_measures(student: Any, source: Source, view: EvalView, device: torch.device) -> dict[str, float]:
    """Measure evenly spaced images of a split, in fp32; {} for what is not a plain ViT under one of the methods.

    `attention_distance`: pixels between a patch and what it attends to, the mean over heads, blocks and images.
    `patch_top1`: the fraction of patches whose own answer (Student.patch_map) is the image's label.
    """
    if not isinstance(student, Student) or not has_standard_attention(student.model):
        return {}
    watched = copy.deepcopy(student).eval()  # a compiled student would be compiled again for the hooks
    chosen = np.unique(np.linspace(0, len(source) - 1, IMAGES).round().astype(int))
    patch = student.model.patch_embed.patch_size[0]
    far: list[float] = []
    named: list[float] = []
    for start in range(0, len(chosen), AT_ONCE):
        indices = chosen[start : start + AT_ONCE]
        views = to_float(torch.stack([view(source.load(int(index))) for index in indices]).to(device))
        maps = attention_maps(watched, views)
        distances = [mean_distance(weights, student.grid, patch, student.model.num_prefix_tokens) for weights in maps]
        far += [float(torch.stack(distances).mean())] * len(indices)
        labels = torch.as_tensor(source.labels[indices], device=device)
        said = watched.patch_map(views).argmax(1)
        named += (said == labels[:, None, None]).float().mean((1, 2)).tolist()
    return {"attention_distance": float(np.mean(far)), "patch_top1": float(np.mean(named))}

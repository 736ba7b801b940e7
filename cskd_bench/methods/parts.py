"""The arithmetic of the losses as pure functions; suffixes: B images, K classes, h x w places.

Targets of integer type are class indices (hard), of floating type are logits (soft).
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.config import Decay, Hardness


def label_loss(class_logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Cross-entropy with soft (mixed, smoothed) labels, mean over images."""
    return -(labels_BK * F.log_softmax(class_logits_BK, dim=1)).sum(1).mean()


def global_loss(dist_logits_BK: Tensor, target: Tensor, temperature: float) -> Tensor:
    """DeiT's distillation: hard CE(logits, index); soft T^2 * KL summed / (B*K) (arXiv 2012.12877's code)."""
    if not target.is_floating_point():
        return F.cross_entropy(dist_logits_BK, target)
    return _summed_kl(dist_logits_BK, target, temperature) / dist_logits_BK.numel()


def plain_kd_loss(class_logits_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """Hinton's soft target loss: T^2 * KL, mean over images (arXiv 1503.02531)."""
    return _summed_kl(class_logits_BK, target_BK, temperature) / len(class_logits_BK)


def spatial_loss(
    patch_logits_BKhw: Tensor, target: Tensor, temperature: float, reduction: Literal["official", "mean"]
) -> Tensor:
    """CSKD's spatial loss (arXiv 2307.08500): hard, mean CE over B*h*w; soft, T^2 * KL summed / B.

    The official soft scaling does not average over the h*w places; `reduction="mean"` does. Logits in half
    precision are taken to fp32.
    """
    if not target.is_floating_point():
        loss: Tensor = _HardLossByPlace.apply(patch_logits_BKhw, target)  # type: ignore[no-untyped-call]
        return loss
    patch_logits_BKhw = _at_least_fp32(patch_logits_BKhw)
    batch, _, height, width = patch_logits_BKhw.shape
    terms = batch if reduction == "official" else batch * height * width
    return _summed_kl(patch_logits_BKhw, target, temperature) / terms


class _HardLossByPlace(torch.autograd.Function):
    """Mean cross-entropy over all places, a few images at a time: F.cross_entropy keeps three times the memory.

    The gradient, (softmax - one hot) / places, is made beside the loss and is all that is kept. In fp16, where
    1 / places leaves most entries no bits, the division waits for the loss scale that comes with `upstream`.
    """

    IMAGES = 32

    @staticmethod
    def forward(ctx: Any, logits_BKhw: Tensor, target_Bhw: Tensor) -> Tensor:
        gradient = torch.empty_like(logits_BKhw) if logits_BKhw.requires_grad else None
        places, late = target_Bhw.numel(), logits_BKhw.dtype == torch.float16
        dtype = _at_least_fp32(logits_BKhw[:0]).dtype
        total = torch.zeros((), dtype=dtype, device=logits_BKhw.device)
        for first in range(0, len(logits_BKhw), _HardLossByPlace.IMAGES):
            images = slice(first, first + _HardLossByPlace.IMAGES)
            wanted = target_Bhw[images].unsqueeze(1)
            log_probability = F.log_softmax(logits_BKhw[images], dim=1, dtype=dtype)
            total -= log_probability.gather(1, wanted).sum()
            if gradient is not None:
                error = log_probability.exp_().scatter_add_(1, wanted, log_probability.new_full(wanted.shape, -1.0))
                gradient[images] = error if late else error.div_(places)
        ctx.save_for_backward(gradient)
        ctx.late_share = 1 / places if late else 1.0
        return total / places

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(upstream[0] * ctx.late_share), None  # in place: autograd refuses to come here twice


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _summed_kl(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 * sum KL(softmax(target / T) || softmax(logits / T)) over everything; classes are dimension 1."""
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(target / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def fusion_ratio(decay: Decay, progress: float) -> float:
    """Return r(t) for t = epoch / epochs in [0, 1): 1 is local, 0 is global."""
    match decay:
        case "linear":
            return 1 - progress
        case "quadratic":
            return (1 - progress) ** 2
        case "cosine":
            return math.cos(math.pi * progress / 2)
        case "local":
            return 1.0
        case "global":
            return 0.0


def fuse(dense_BKhw: Tensor, global_BK: Tensor, ratio: float) -> Tensor:
    """Cumulative Knowledge Fusion: D' = r*D + (1-r)*G, with G broadcast over places."""
    return ratio * dense_BKhw + (1 - ratio) * global_BK[:, :, None, None]


def harden(logits: Tensor, hardness: Hardness) -> Tensor:
    """Return class indices (argmax over dimension 1) for hard targets, the logits themselves for soft."""
    return torch.argmax(logits, dim=1) if hardness == "hard" else logits

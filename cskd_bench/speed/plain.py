"""The yardstick: a plain implementation of the paper's step, as one writes it first.

Eager attention with its N x N matrix in memory, the teacher in the loop in its default layout, the head
on all 196 patch tokens before pooling, an EMA that visits every tensor, the loss fetched every step.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class PlainStep:
    """One training step of CSKD (hard, hard) on normalised views, mixed labels and a fixed ratio."""

    def __init__(
        self, student: str, teacher: nn.Module, ratio: float, autocast: Callable[[], AbstractContextManager[None]]
    ) -> None:
        device = next(teacher.parameters()).device
        self._student: Any = timm.create_model(student.replace("_patch", "_distilled_patch", 1)).to(device).train()
        for module in self._student.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        self._ema: Any = deepcopy(self._student).eval()
        self._teacher: Any = teacher
        self._optimizer = torch.optim.AdamW(self._student.parameters(), lr=1e-3, weight_decay=0.05)
        self._ratio = ratio
        self._autocast = autocast
        self._mean = torch.tensor(_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=device).view(1, 3, 1, 1)

    def __call__(self, views: Tensor, labels_BK: Tensor) -> float:
        """Take one step; return the loss."""
        inputs = (views - self._mean) / self._std
        with self._autocast():
            with torch.no_grad():
                features = self._teacher.forward_features(inputs)
                places = features.flatten(2).transpose(1, 2)
                dense = self._teacher.head.fc(places).transpose(1, 2).reshape(len(views), -1, *features.shape[-2:])
                global_ = dense.mean((2, 3))
                fused = self._ratio * dense + (1 - self._ratio) * global_[:, :, None, None]
            tokens = self._student.forward_features(inputs)
            class_logits = self._student.head(tokens[:, 0])
            dist_logits = self._student.head_dist(tokens[:, 1])
            patch_logits = self._student.head_dist(tokens[:, 2:]).transpose(1, 2)
            side = int(patch_logits.shape[-1] ** 0.5)
            patch_logits = patch_logits.reshape(len(views), -1, side, side)
            pooled = F.adaptive_avg_pool2d(patch_logits, dense.shape[-2:])
            label = -(labels_BK * class_logits.log_softmax(1)).sum(1).mean()
            loss = 0.5 * label + 0.5 * F.cross_entropy(dist_logits, global_.argmax(1))
            loss = loss + F.cross_entropy(pooled, fused.argmax(1))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            average = self._ema.state_dict()
            for name, value in self._student.state_dict().items():
                average[name].copy_(average[name] * 0.99996 + value * (1 - 0.99996))
        return float(loss.item())

"""The moving average of a student's weights: timm's, with its lists of tensors made once."""

from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn


class WeightAverage(ModelEmaV3):  # type: ignore[misc]
    """timm's ModelEmaV3, to the bit, without two state_dicts a step: they cost more than a millisecond of Python.

    Weights and buffers of `model` must stay the same tensors, as optimisers and state_dicts leave them.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay)
        theirs: Any = self.module
        pairs = list(zip(theirs.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averaged: tuple[Tensor, ...] = tuple(average for average, _ in floats)
        self._followed: tuple[Tensor, ...] = tuple(followed for _, followed in floats)

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Move the average of what is a number towards the model, and copy the rest."""
        torch._foreach_lerp_(self._averaged, self._followed, weight=1.0 - decay)
        for average, followed in self._others:
            average.copy_(followed)

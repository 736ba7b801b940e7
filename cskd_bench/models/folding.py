"""Folding frozen batch norms into the convolutions before them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cskd_bench.device import exact_fp32


@torch.no_grad()
def fold_batch_norms(model: Any, inputs: Tensor) -> int:
    """Fold, in place, every batch norm that a convolution's output goes straight into; return how many.

    Pairs are found by watching one pass of `inputs` (1, 3, S, S) through a model in evaluation mode.
    Features change by float32 rounding; a larger change (an output that is used twice) is a ValueError.
    """
    assert not model.training
    with exact_fp32():  # a probe in TF32 would find its own rounding
        return _fold(model, inputs)


def _fold(model: Any, inputs: Tensor) -> int:
    before = model.forward_features(inputs)
    pairs = _pairs(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    for convolution, norm in pairs:
        model.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        model.set_submodule(names[norm], _rest_of(norm))
    change = (model.forward_features(inputs) - before).abs().max() / before.abs().max()
    if not change < 1e-3:
        raise ValueError(f"folding batch norms changes the features by {float(change):.1e} of their largest value")
    return len(pairs)


def _pairs(model: nn.Module, inputs: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return (convolution, norm) where the very tensor that leaves the one enters the other."""
    left: list[tuple[nn.Conv2d, Tensor]] = []
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def leaves(module: nn.Module, arguments: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        left.append((module, output))

    def enters(module: nn.Module, arguments: Any) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if left and left[-1][1] is arguments[0]:
            found.append((left[-1][0], module))

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(leaves))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(enters))
    model.forward_features(inputs)  # type: ignore[operator]
    for handle in handles:
        handle.remove()
    return found


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what is left of a norm: the activation of timm's BatchNormAct2d, or nothing."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()

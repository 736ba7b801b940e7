"""Stochastic depth of a model that is built already."""

from typing import Any

from timm.layers import DropPath, calculate_drop_path_rates
from torch import nn

from cskd_bench.errors import UserError


def set_drop_path(model: Any, rate: float) -> None:
    """Give a timm model's blocks rates of stochastic depth that rise linearly from 0 to `rate`, as timm does; 0: none.

    UserError for a model whose blocks do not have the two residual branches of a ViT's.
    """
    blocks = [module for module in model.modules() if _has_branches(module)]
    if not blocks:
        raise UserError(
            f"finetune.drop_path: this {type(model).__name__} has no ViT blocks to set it in; leave it out, which "
            "keeps the checkpoint's own"
        )
    for block, own in zip(blocks, calculate_drop_path_rates(rate, len(blocks)), strict=True):
        block.drop_path1, block.drop_path2 = (DropPath(own) if own > 0 else nn.Identity() for _ in range(2))


def _has_branches(module: Any) -> bool:
    """Whether a module is a block with one stochastic depth for attention and one for the MLP."""
    return all(isinstance(getattr(module, name, None), DropPath | nn.Identity) for name in ("drop_path1", "drop_path2"))

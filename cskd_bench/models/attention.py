"""Attention of a timm ViT, recomputed from each block's own weights. Shapes: B images, H heads, T tokens.

The block runs as it always does (with fused attention); only its input is kept. From that input the queries
and keys are computed again, so what is drawn is what the block used.
"""

from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor

from cskd_bench.errors import UserError
from cskd_bench.models.students import Student


def has_standard_attention(model: Any) -> bool:
    """Whether every block of a timm model attends over tokens as a plain ViT's does."""
    blocks = getattr(model, "blocks", ())
    return len(blocks) > 0 and all(isinstance(getattr(block, "attn", None), Attention) for block in blocks)


@torch.no_grad()
def attention_maps(student: Student, views: Tensor) -> list[Tensor]:
    """Return, for each block, attention (B, H, T, T): row i says where token i looks, and sums to 1.

    `views` (B, 3, S, S) in [0, 1] at the student's resolution. Raises UserError for a model without timm's
    standard attention.
    """
    if not has_standard_attention(student.model):
        raise UserError("attention can be read from plain ViTs with timm's standard attention only")
    blocks, entered = student.model.blocks, list[Tensor]()
    handles = [
        block.attn.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].detach())) for block in blocks
    ]
    try:
        student.tokens(views)
    finally:
        for handle in handles:
            handle.remove()
    return [attention(block.attn, tokens) for block, tokens in zip(blocks, entered, strict=True)]


def attention(module: Any, tokens: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) (B, H, T, T) of one attention module for its input (B, T, D)."""
    query, key, _ = _query_key_value(module, tokens)
    scores: Tensor = query @ key.transpose(-2, -1) * module.scale
    return scores.softmax(dim=-1)


def attended(module: Any, tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the module's output (B, T, D) under given attention weights (B, H, T, T)."""
    _, _, value = _query_key_value(module, tokens)
    mixed = (weights @ value).transpose(1, 2).flatten(2)
    mixed = module.norm(mixed)
    if module.gate is not None:
        mixed = mixed * module.gate(tokens).sigmoid()
    return module.proj(mixed)  # type: ignore[no-any-return]


def _query_key_value(module: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _ = tokens.shape
    parts = module.qkv(tokens).reshape(batch, length, 3, module.num_heads, module.head_dim)
    query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
    return module.q_norm(query), module.k_norm(key), value


def mean_distance(weights: Tensor, grid: tuple[int, int], patch: float, prefix: int) -> Tensor:
    """Return how far each head looks, (H,) in pixels: the mean distance between a patch and what it attends to.

    Distances between patch centres weighted by the attention (B, H, T, T) among patches (class and distillation
    tokens left out, rows renormalised), averaged over patches and images (arXiv 2010.11929, section D.7).
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    centres = torch.stack([rows.flatten(), columns.flatten()], dim=1).to(weights) * patch
    distance = torch.cdist(centres, centres)
    among = weights[:, :, prefix:, prefix:]
    among = among / among.sum(dim=-1, keepdim=True)
    return (among * distance).sum(dim=-1).mean(dim=(0, 2))

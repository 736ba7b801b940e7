"""What a method's heads and features ask of a timm model, in sentences where it lacks them."""

from typing import Any, get_args

from timm.utils import unwrap_model
from torch import nn

from cskd_bench.config import MethodSettings
from cskd_bench.errors import UserError
from cskd_bench.outputs import Heads


def check_heads(model: Any, heads: Heads) -> None:
    """UserError for a model without the tokens whose heads a method trains, or with steps that those heads pass by."""
    if heads not in get_args(Heads):
        raise UserError(f"student: heads={heads!r}; there are {', '.join(map(repr, get_args(Heads)))}")
    if unwrap_model(model) is not model:
        raise UserError(
            f"student: is wrapped ({type(model).__name__}); give the model itself, and compile or distribute the task"
        )
    if heads == "class":
        return
    kind = type(model).__name__
    if not hasattr(model, "patch_embed") or not hasattr(model, "num_prefix_tokens"):
        raise UserError(f"student: {kind} is not a ViT with patch tokens, which heads={heads!r} needs")
    if not hasattr(model, "dist_token"):
        _check_lent_token(model, kind, heads)
    for part, option in (("patch_drop", "patch_drop_rate=0"), ("fc_norm", "fc_norm=False")):
        if not isinstance(getattr(model, part, None), nn.Identity | None):
            raise UserError(f"student: this {kind} has {part}, which {heads!r} cannot use; build it with {option}")


def _check_lent_token(model: Any, kind: str, heads: Heads) -> None:
    """UserError for a ViT without a distillation token that has no register token to lend, or no class token."""
    if getattr(model, "reg_token", None) is None:
        raise UserError(
            f"student: this {kind} has no distillation token, which heads={heads!r} needs; use a distilled model "
            '("deit_tiny_distilled_patch16_224") or build yours with timm.create_model(name, reg_tokens=1)'
        )
    if model.cls_token is None or model.global_pool != "token":
        raise UserError(f"student: this {kind} has no class token to answer with, which heads={heads!r} needs")


def check_features(model: Any, method: MethodSettings) -> None:
    """UserError for a model without the patch tokens or blocks that a method's projector takes."""
    if not method.student_features:
        return
    kind = type(model).__name__
    if not hasattr(model, "patch_embed") or not hasattr(model, "num_prefix_tokens") or not hasattr(model, "blocks"):
        raise UserError(f"student: {kind} is not a ViT with patch tokens, which method {method.kind} needs")
    if not isinstance(getattr(model, "patch_drop", None), nn.Identity | None):
        raise UserError(
            f"student: this {kind} has patch_drop, which method {method.kind} cannot use; build it with "
            "patch_drop_rate=0"
        )
    method.blocks(len(model.blocks))

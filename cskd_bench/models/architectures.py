"""`cskd_*` architectures for timm: a ViT with a distillation token, and the inference rules of DeiT and CSKD.

An export holds this file as `modeling.py`, so it needs torch and timm alone.
"""

from functools import partial
from typing import Any, Literal

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

Answers = Literal["class", "class+dist", "class+dist+patch"]  # the heads whose logits inference averages

_SIZES = {  # embedding dimension, heads; depth is 12 and patches are 16 px, as in DeiT
    "cskd_tiny_patch16_224": (192, 3),
    "cskd_small_patch16_224": (384, 6),
    "cskd_base_patch16_224": (768, 12),
}
_CONFIG = {
    "input_size": (3, 224, 224),
    "fixed_input_size": True,
    "pool_size": None,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "num_classes": 1000,
    "first_conv": "patch_embed.proj",
    "classifier": ("head", "head_dist"),
}
default_cfgs = generate_default_cfgs({name: dict(_CONFIG) for name in (*_SIZES, "cskd_register_vit")})


def _mean_of_heads(model: Any, tokens: Tensor, pre_logits: bool) -> Any:
    """Map tokens (B, prefix + N, D) to the mean logits (B, K) of the heads that answer (arXiv 2307.08500).

    With `pre_logits` the mean of their tokens (B, D); in distilled training the logits of both heads.
    """
    parts = [tokens[:, 0]]
    if model.answers != "class":
        parts.append(tokens[:, 1])
    if model.answers == "class+dist+patch":
        parts.append(tokens[:, model.num_prefix_tokens :].mean(1))
    parts = [model.head_drop(part) for part in parts]
    if pre_logits:
        return torch.stack(parts).mean(0)
    if model.distilled_training and model.training:
        return model.head(parts[0]), model.head_dist(model.head_drop(tokens[:, 1]))
    logits = [model.head(parts[0]), *(model.head_dist(part) for part in parts[1:])]
    return torch.stack(logits).mean(0)


class CSKDVisionTransformer(VisionTransformerDistilled):  # type: ignore[misc]
    """DeiT with a distillation token; the mean of the heads that `answers` names is its output."""

    def __init__(self, *args: Any, answers: Answers = "class+dist+patch", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answers: Answers = answers

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Map tokens (B, 2 + N, D) to logits (B, K); two of them, class and distillation, in distilled training."""
        return _mean_of_heads(self, x, pre_logits)


class CSKDRegisterVisionTransformer(VisionTransformer):  # type: ignore[misc]
    """A ViT that lends its one register token as distillation token. Made from a timm ViT by `lend_register`."""

    answers: Answers
    distilled_training: bool
    head_dist: nn.Module

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Map tokens (B, 2 + N, D) to logits (B, K); two of them, class and distillation, in distilled training."""
        return _mean_of_heads(self, x, pre_logits)

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """Return both heads."""
        return self.head, self.head_dist

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give both heads new random weights."""
        assert global_pool in (None, "", "token"), "The heads read the class and distillation tokens."
        super().reset_classifier(num_classes)
        self.head_dist = _linear_like(self.head)

    def set_distilled_training(self, enable: bool = True) -> None:
        """Make the model return both heads' logits in training mode."""
        self.distilled_training = enable


def _linear_like(head: nn.Module) -> nn.Module:
    """Return a layer of the head's sizes with new weights; an identity where the head is one."""
    if not isinstance(head, nn.Linear):
        return nn.Identity()
    weight = head.weight
    return nn.Linear(head.in_features, head.out_features, device=weight.device, dtype=weight.dtype).train(head.training)


def lend_register(base: str, answers: Answers = "class+dist+patch", **options: Any) -> CSKDRegisterVisionTransformer:
    """Build the timm ViT called `base` with one register token and a distillation head that reads it."""
    model: Any = timm.create_model(base, reg_tokens=1, **options)
    assert type(model) is VisionTransformer, f"{base} is no plain ViT."
    assert model.global_pool == "token", "The heads read the class and distillation tokens."
    model.__class__ = CSKDRegisterVisionTransformer  # timm's entry points of ViTs take no class
    model.answers, model.distilled_training = answers, False
    model.head_dist = _linear_like(model.head)
    return model  # type: ignore[no-any-return]


def filter_weights(state: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Take a student's, a checkpoint's or timm's weights under timm's names, resized to the model's patches."""
    state = state.get("model", state.get("state_dict", state))
    plain = {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in state.items()}
    return checkpoint_filter_fn(plain, model, adapt_layer_scale=True)  # type: ignore[no-any-return]


def register() -> None:
    """Make the `cskd_*` names known to timm.create_model; calling it again changes nothing."""
    for entry in (cskd_tiny_patch16_224, cskd_small_patch16_224, cskd_base_patch16_224, cskd_register_vit):
        if not timm.is_model(entry.__name__):
            register_model(entry)


def cskd_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> CSKDVisionTransformer:
    """DeiT-Ti with three-head inference."""
    return _create("cskd_tiny_patch16_224", pretrained, kwargs)


def cskd_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> CSKDVisionTransformer:
    """DeiT-S with three-head inference."""
    return _create("cskd_small_patch16_224", pretrained, kwargs)


def cskd_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> CSKDVisionTransformer:
    """DeiT-B with three-head inference."""
    return _create("cskd_base_patch16_224", pretrained, kwargs)


def cskd_register_vit(
    pretrained: bool = False, base: str = "vit_tiny_patch16_224", **kwargs: Any
) -> CSKDRegisterVisionTransformer:
    """The timm ViT called `base`, its register token lent as distillation token, with three-head inference."""
    return _build(partial(lend_register, base), "cskd_register_vit", pretrained, kwargs)  # type: ignore[no-any-return]


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> CSKDVisionTransformer:
    width, heads = _SIZES[name]
    settings = {"patch_size": 16, "embed_dim": width, "depth": 12, "num_heads": heads} | options
    return _build(CSKDVisionTransformer, name, pretrained, settings)  # type: ignore[no-any-return]


def _build(model: Any, name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    blocks = options.pop("out_indices", 3)  # of features_only, as in timm's ViTs: the last three
    return build_model_with_cfg(
        model,
        name,
        pretrained,
        pretrained_filter_fn=filter_weights,
        feature_cfg={"out_indices": blocks, "feature_cls": "getter"},
        **options,
    )

"""`cskd_*` architectures for timm: DeiT with a distillation token, and CSKD's three-head inference."""

from typing import Any

import timm
from timm.models import build_model_with_cfg, register_model
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor

_SIZES = {  # embedding dimension, heads; depth is 12 and patches are 16 px, as in DeiT
    "cskd_tiny_patch16_224": (192, 3),
    "cskd_small_patch16_224": (384, 6),
    "cskd_base_patch16_224": (768, 12),
}


class CSKDVisionTransformer(VisionTransformerDistilled):  # type: ignore[misc]
    """A distilled ViT that averages class head, distillation head and mean patch logits (arXiv 2307.08500)."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map tokens (B, 2 + N, D) to logits (B, K), or to the mean of the three tokens (B, D)."""
        parts = x[:, 0], x[:, 1], x[:, self.num_prefix_tokens :].mean(1)
        if pre_logits:
            return sum(parts) / 3  # type: ignore[return-value]
        return (self.head(parts[0]) + self.head_dist(parts[1]) + self.head_dist(parts[2])) / 3  # type: ignore[no-any-return]


def register() -> None:
    """Make the `cskd_*` names known to timm.create_model; calling it again changes nothing."""
    if not timm.is_model("cskd_tiny_patch16_224"):
        for entry in (cskd_tiny_patch16_224, cskd_small_patch16_224, cskd_base_patch16_224):
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


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> CSKDVisionTransformer:
    width, heads = _SIZES[name]
    settings = {"patch_size": 16, "embed_dim": width, "depth": 12, "num_heads": heads} | options
    settings["pretrained_cfg"] = options.get("pretrained_cfg") or _CONFIG
    model: CSKDVisionTransformer = build_model_with_cfg(CSKDVisionTransformer, name, pretrained, **settings)
    return model


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

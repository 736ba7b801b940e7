"""How a teacher answers: for every position of a CNN's last feature map, or for every patch token of a ViT.

Shapes: B views, K classes (those of `indices` alone where given), C channels, h x w positions, N = h * w patch tokens
after the P prefix tokens (class, distillation, registers).
"""

from typing import Any

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class MapHead:
    """The head of a CNN: pooling, and whatever maps the pooled features to logits, here at each position alone."""

    global_is_mean = True  # G is the mean of D: for GAP + linear heads that equals the model's own logits

    def __init__(self, model: Any) -> None:
        self._model = model
        self._linear = _plain_linear_head(model)

    def dense(self, features: Tensor, indices: Tensor | None) -> Tensor:
        """Map the last feature map (B, C, h, w) to D (B, K, h, w)."""
        if self._linear is not None:
            weight, bias = _rows(self._linear, indices)
            return F.conv2d(features, weight[:, :, None, None].to(features.dtype), bias)
        batch, channels, height, width = features.shape
        places = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
        logits: Tensor = self._model.forward_head(places)
        if indices is not None:
            logits = logits[:, indices]
        return logits.view(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()

    def own_logits(self, features: Tensor, indices: Tensor | None) -> Tensor | None:
        """Return None: the global response is the mean of the dense one."""
        return None

    def pooled(self, features: Tensor) -> Tensor:
        """Return the mean over positions (B, C)."""
        return features.mean((2, 3))

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return (h, w) for an image (1, 3, S, S), by a pass."""
        height, width = self._model.forward_features(image).shape[-2:]  # not compiled for a batch of one
        return int(height), int(width)


class TokenHead:
    """The head of a ViT, at each patch token as if the model answered by that token alone.

    A norm that the model applies after pooling is applied to each token; attention pooling sees one token. Models with
    two heads (DeiT's distilled ones) answer for patches by the distillation head, as this project's students do.
    """

    global_is_mean = False  # G is the model's own logits: of its class token or its pooled tokens

    def __init__(self, model: Any, image_size: int) -> None:
        self._model = model
        self._places: tuple[int, int] = tuple(model.patch_embed.dynamic_feat_size((image_size, image_size)))

    def dense(self, features: Tensor, indices: Tensor | None) -> Tensor:
        """Map tokens (B, P + N, C) after the last norm to D (B, K, h, w)."""
        model, tokens = self._model, self._patch_tokens(features)
        if getattr(model, "attn_pool", None) is not None:
            tokens = model.attn_pool(tokens.flatten(0, 1).unsqueeze(1)).view_as(tokens)
        weight, bias = _rows(getattr(model, "head_dist", model.head), indices)
        logits = F.linear(model.fc_norm(tokens), weight, bias)
        return logits.transpose(1, 2).reshape(len(tokens), -1, *self._places).contiguous()

    def own_logits(self, features: Tensor, indices: Tensor | None) -> Tensor | None:
        """Map tokens to the model's own logits G (B, K)."""
        logits: Tensor = self._model.forward_head(features)
        return logits if indices is None else logits[:, indices]

    def pooled(self, features: Tensor) -> Tensor:
        """Return the mean over patch tokens after the last norm (B, C)."""
        pooled: Tensor = self._model.fc_norm(self._patch_tokens(features)).mean(1)
        return pooled

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return (h, w), the patches of an image."""
        return self._places

    def _patch_tokens(self, features: Tensor) -> Tensor:
        return features[:, self._model.num_prefix_tokens :]


def has_patch_tokens(model: Any) -> bool:
    """Say whether a timm model is a plain ViT: tokens of one size from the first block to the last."""
    return isinstance(model, VisionTransformer | Eva | Beit)


def head_of(model: Any, image_size: int) -> MapHead | TokenHead:
    """Return what answers for a model at a size in pixels."""
    return TokenHead(model, image_size) if has_patch_tokens(model) else MapHead(model)


def _rows(layer: Any, indices: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the weight and the bias of a linear layer, those of `indices` alone where given."""
    if indices is None:
        return layer.weight, layer.bias
    return layer.weight[indices], None if layer.bias is None else layer.bias[indices]


def _plain_linear_head(model: Any) -> nn.Linear | None:
    """Return the classifier if the head is nothing but pooling and that linear layer (found by trying it)."""
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear) or classifier.in_features != model.num_features:
        return None
    probe = torch.randn(2, model.num_features, 1, 1, generator=torch.Generator().manual_seed(0))
    probe = probe.to(classifier.weight.dtype)
    with torch.no_grad():
        return (
            classifier if torch.allclose(model.forward_head(probe), classifier(probe.flatten(1)), atol=1e-6) else None
        )

"""What stands before a ViT's blocks in Co-advise (CVPR 2022): a convolutional stem, and a token made of its patches."""

from typing import Any, Final

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed, to_2tuple
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from cskd_bench.student_config import why_no_stem

CHANNELS: Final = 64


class ConvStem(PatchEmbed):  # type: ignore[misc]
    """Maps images (B, 3, H, W) to patch embeddings (B, N, D): three convolutions at half the size, then patches.

    A 7x7 with stride 2 and two 3x3, each with batch norm and ReLU; then a convolution whose kernel and stride are half
    a patch. ValueError for a patch size that is odd or less than 4.
    """

    proj: nn.Module

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain: Any = self.proj
        for side in self.patch_size:
            if problem := why_no_stem(side):
                raise ValueError(problem)
        half = tuple(side // 2 for side in self.patch_size)
        self.proj = nn.Sequential(
            *_convolve(plain.in_channels, kernel=7, stride=2),
            *_convolve(CHANNELS, kernel=3, stride=1),
            *_convolve(CHANNELS, kernel=3, stride=1),
            nn.Conv2d(CHANNELS, plain.out_channels, half, half, bias=plain.bias is not None),
        ).to(plain.weight)
        for layer in self.proj.children():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Take images of another size (pixels); ValueError for another patch size, which timm asks for in one call."""
        if patch_size is not None and to_2tuple(patch_size) != self.patch_size:
            raise ValueError(f"a convolutional stem keeps its patch size of {self.patch_size[0]}")
        super().set_input_size(img_size)


def _convolve(channels: int, *, kernel: int, stride: int) -> list[nn.Module]:
    """Return a convolution to CHANNELS maps that pads by half its kernel, its batch norm and ReLU."""
    convolution = nn.Conv2d(channels, CHANNELS, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)]


class MeanTokenViT(VisionTransformerDistilled):  # type: ignore[misc]
    """DeiT whose distillation token begins as the mean patch embedding. Made from timm's model by `feed_mean`.

    `dist_token` is None: no weight stands for it, and its position embedding stays.
    """

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """Map patch embeddings (B, N, D), or (B, H, W, D) where the size is dynamic, to tokens (B, 2 + N, D)."""
        positions: Tensor = self.pos_embed
        if self.dynamic_img_size:
            positions = resample_abs_pos_embed(
                positions,
                new_size=list(patches.shape[1:3]),
                old_size=list(self.patch_embed.grid_size),
                num_prefix_tokens=self.num_prefix_tokens,
            )
            patches = patches.flatten(1, 2)
        classes = self.cls_token.expand(patches.shape[0], -1, -1)  # len() would fix the batch of an export
        return self.pos_drop(torch.cat([classes, mean_token(patches), patches], 1) + positions)  # type: ignore[no-any-return]


def mean_token(patches: Tensor) -> Tensor:
    """Return the mean (B, 1, D) of patch embeddings (B, N, D)."""
    return patches.mean(1, keepdim=True)


def feed_mean(model: VisionTransformerDistilled) -> MeanTokenViT:
    """Turn timm's distilled ViT, in place, into one whose distillation token begins as the mean patch embedding."""
    assert not model.no_embed_class, "The position of the distillation token is needed."
    model.__class__ = MeanTokenViT  # timm's entry points of ViTs take no class
    model.register_parameter("dist_token", None)
    return model  # type: ignore[no-any-return]

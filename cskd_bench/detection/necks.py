"""Necks that make a feature pyramid of a plain ViT: strides p/4, p/2, p, 2p and 4p for patch size p."""

from collections import OrderedDict
from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from cskd_bench.errors import UserError


def pyramid_strides(patch_size: int) -> list[int]:
    """Return the strides in pixels of the five levels that both necks give."""
    if patch_size % 4:
        raise UserError(f"patch size {patch_size}: a feature pyramid needs a multiple of 4")
    return [patch_size // 4, patch_size // 2, patch_size, 2 * patch_size, 4 * patch_size]


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid: every level is made of the last map alone (arXiv 2203.16527, section 3)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.scales, widths = _rescalings(in_channels)
        self.projections = nn.ModuleList(_projection(width, out_channels) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map [..., (B, D, H, W)] to five levels (B, out_channels, ...), finest first: 4H, 2H, H, H/2, H/4 rows."""
        levels = [project(scale(maps[-1])) for scale, project in zip(self.scales, self.projections, strict=True)]
        return (*levels, F.max_pool2d(levels[-1], 1, 2))


class FourTapFPN(nn.Module):
    """Four maps from four depths, rescaled, then a feature pyramid network (arXiv 1612.03144).

    This is the neck of ViT-Adapter's plain-ViT rows: the shallowest map becomes the finest level.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(in_channels) for _ in range(4))
        self.scales, widths = _rescalings(in_channels)
        self.pyramid = FeaturePyramidNetwork(widths, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map four maps (B, D, H, W), shallowest first, to five levels (B, out_channels, ...), finest first."""
        if len(maps) != 4:
            raise UserError(f"FourTapFPN needs 4 maps, the backbone gives {len(maps)}: set its taps to 4")
        rescaled = [scale(norm(map)) for map, norm, scale in zip(maps, self.norms, self.scales, strict=True)]
        levels = list(self.pyramid(OrderedDict((str(number), map) for number, map in enumerate(rescaled))).values())
        return (*levels, F.max_pool2d(levels[-1], 1, 2))


def _rescalings(channels: int) -> tuple[nn.ModuleList, list[int]]:
    """Return what makes 4x, 2x, 1x and 1/2x maps of a map, and their channels."""
    half, quarter = channels // 2, channels // 4
    four_times = nn.Sequential(
        nn.ConvTranspose2d(channels, half, 2, 2),
        LayerNorm2d(half),
        nn.GELU(),
        nn.ConvTranspose2d(half, quarter, 2, 2),
    )
    twice = nn.ConvTranspose2d(channels, half, 2, 2)
    scales = nn.ModuleList([four_times, twice, nn.Identity(), nn.MaxPool2d(2, 2, ceil_mode=True)])
    return scales, [quarter, half, channels, channels]


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )

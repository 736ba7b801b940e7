"""Necks that make a feature pyramid of a plain ViT: strides p/4, p/2, p, 2p and 4p for patch size p.

As in mmdet's FPN, `start_level` leaves out the finest levels and `num_outs` says how many there are: RetinaNet and ATSS
take p/2 to 8p with start_level=1. Levels coarser than 2p are every second value of the one before.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from cskd_bench.errors import UserError

_RESCALED: Final = 4  # levels that are made of a map: p/4 to 2p


def pyramid_strides(patch_size: int, start_level: int = 0, num_outs: int = 5) -> list[int]:
    """Return the strides in pixels of the levels that both necks give; UserError for a patch size that has none."""
    if patch_size % 4:
        raise UserError(f"patch size {patch_size}: a feature pyramid needs a multiple of 4")
    return [patch_size * 2**level // 4 for level in range(start_level, start_level + num_outs)]


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid: every level is made of the last map alone (arXiv 2203.16527, section 3)."""

    def __init__(self, in_channels: int, out_channels: int, *, start_level: int = 0, num_outs: int = 5) -> None:
        super().__init__()
        self.levels = _levels(start_level, num_outs)
        self.num_outs = num_outs
        self.scales, widths = _rescalings(in_channels, self.levels)
        self.projections = nn.ModuleList(_projection(width, out_channels) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map [..., (B, D, H, W)] to levels (B, out_channels, ...), finest first: 4H, 2H, H, H/2, H/4 rows."""
        levels = [project(scale(maps[-1])) for scale, project in zip(self.scales, self.projections, strict=True)]
        return _coarsen(levels, self.num_outs)


class FourTapFPN(nn.Module):
    """Four maps from four depths, rescaled, then a feature pyramid network (arXiv 1612.03144).

    This is the neck of ViT-Adapter's plain-ViT rows: the shallowest map becomes the finest level.
    """

    def __init__(self, in_channels: int, out_channels: int, *, start_level: int = 0, num_outs: int = 5) -> None:
        super().__init__()
        self.levels = _levels(start_level, num_outs)
        self.num_outs = num_outs
        self.norms = nn.ModuleList(LayerNorm2d(in_channels) for _ in self.levels)
        self.scales, widths = _rescalings(in_channels, self.levels)
        self.pyramid = FeaturePyramidNetwork(widths, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map four maps (B, D, H, W), shallowest first, to levels (B, out_channels, ...), finest first."""
        if len(maps) != _RESCALED:
            raise UserError(f"FourTapFPN needs 4 maps, the backbone gives {len(maps)}: set its taps to 4")
        used = [maps[level] for level in self.levels]
        rescaled = [scale(norm(map)) for map, norm, scale in zip(used, self.norms, self.scales, strict=True)]
        levels = list(self.pyramid(OrderedDict((str(number), map) for number, map in enumerate(rescaled))).values())
        return _coarsen(levels, self.num_outs)


def _levels(start_level: int, num_outs: int) -> range:
    """Return which of the rescaled levels are made; UserError where there would be none."""
    if not 0 <= start_level < _RESCALED or num_outs < 1:
        raise UserError(f"start_level {start_level}, num_outs {num_outs}: a neck starts at level 0 to 3 and gives some")
    return range(start_level, min(_RESCALED, start_level + num_outs))


def _coarsen(levels: list[Tensor], num_outs: int) -> tuple[Tensor, ...]:
    """Return `num_outs` levels: those that are there, and every second value of the last, again and again."""
    while len(levels) < num_outs:
        levels.append(F.max_pool2d(levels[-1], 1, 2))
    return tuple(levels)


def _rescalings(channels: int, levels: range) -> tuple[nn.ModuleList, list[int]]:
    """Return what makes the 4x, 2x, 1x and 1/2x maps of a map that are wanted, and their channels."""
    half, quarter = channels // 2, channels // 4
    four_times = nn.Sequential(
        nn.ConvTranspose2d(channels, half, 2, 2),
        LayerNorm2d(half),
        nn.GELU(),
        nn.ConvTranspose2d(half, quarter, 2, 2),
    )
    twice = nn.ConvTranspose2d(channels, half, 2, 2)
    scales = [four_times, twice, nn.Identity(), nn.MaxPool2d(2, 2, ceil_mode=True)]
    widths = [quarter, half, channels, channels]
    return nn.ModuleList(scales[level] for level in levels), [widths[level] for level in levels]


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )

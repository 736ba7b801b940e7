"""Operations of RandAugment and three-augment on a batch of uint8 views, on any device, each view with its own.

Eight operations are tables of 256 entries a channel, five are one affine warp, two blend with another
image, one blurs. All but the warps give PIL's very pixels; warps sample with torch's cubic kernel (a = -0.75)
where PIL has a = -1, and agree within the tolerance that the tests state.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.data.mixing import IMAGENET_MEAN
from cskd_bench.data.tensor.blur import blur
from cskd_bench.data.tensor.parameters import Operation, Operations
from cskd_bench.device import to_device

_TABLES = (
    Operation.AUTO_CONTRAST,
    Operation.EQUALIZE,
    Operation.INVERT,
    Operation.POSTERIZE,
    Operation.SOLARIZE,
    Operation.SOLARIZE_ADD,
    Operation.CONTRAST,
    Operation.BRIGHTNESS,
)
_WARPS = (
    Operation.ROTATE,
    Operation.SHEAR_X,
    Operation.SHEAR_Y,
    Operation.TRANSLATE_X,
    Operation.TRANSLATE_Y,
)
FILL = tuple(round(255 * mean) for mean in IMAGENET_MEAN)  # what a warp shows outside the image


def apply_operations(pixels: Tensor, operations: Operations, interpolation: str = "bicubic") -> Tensor:
    """Apply every layer to uint8 views (n, 3, S, S), in place; returns them."""
    for layer in range(operations.kinds.shape[1]):
        kinds, values = operations.kinds[:, layer], operations.values[:, layer]
        chosen = _Chosen(kinds, values, pixels.device)
        _apply_tables(pixels, chosen)
        _apply_warps(pixels, kinds, values, interpolation)
        for kind, other in ((Operation.COLOR, _grey_3), (Operation.SHARPNESS, _smooth)):
            rows, factors = chosen.of(kind)
            if len(rows):
                images = pixels[rows]
                pixels[rows] = _blend(other(images), images, factors.view(-1, 1, 1, 1))
        rows, _ = chosen.of(Operation.BLUR)
        if len(rows):
            pixels[rows] = blur(pixels[rows], values[kinds == Operation.BLUR])
    return pixels


class _Chosen:
    """The views of each kind of a layer and their values, sent to the device in one copy each."""

    def __init__(self, kinds: np.ndarray, values: np.ndarray, device: torch.device) -> None:
        order = np.argsort(kinds, kind="stable")
        self._sorted = kinds[order]
        self._rows = to_device(torch.from_numpy(order), device)
        self._values = to_device(torch.from_numpy(values[order]), device)

    def of(self, kind: Operation) -> tuple[Tensor, Tensor]:
        """Return the indices of a kind's views, (n,) in their order, and their values (n,)."""
        first, end = np.searchsorted(self._sorted, [int(kind), int(kind) + 1])
        return self._rows[first:end], self._values[first:end]


def _blend(low: Tensor, high: Tensor, factor: Tensor) -> Tensor:
    """PIL's blend: low + factor * (high - low) in float32, clipped and truncated to uint8."""
    low, high = low.float(), high.float()
    return (low + factor * (high - low)).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """PIL's luma, (n, S, S) int32: fixed-point weights 0.299, 0.587, 0.114 of 2^16."""
    red, green, blue = images.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _grey_3(images: Tensor) -> Tensor:
    return _grey(images)[:, None].expand_as(images)


def _smooth(images: Tensor) -> Tensor:
    """PIL's SMOOTH filter: 3x3 with weight 5 in the middle, over 13, rounded; the border stays."""
    whole = images.int()
    inner = 4 * whole[..., 1:-1, 1:-1]
    size = images.shape[-1]
    for row in range(3):
        for column in range(3):
            inner = inner + whole[..., row : size - 2 + row, column : size - 2 + column]
    smooth = whole.clone()
    smooth[..., 1:-1, 1:-1] = torch.div(2 * inner + 13, 26, rounding_mode="floor")
    return smooth


def _apply_tables(pixels: Tensor, layer: _Chosen) -> None:
    """Look up all table operations of a layer in one gather."""
    rows, tables = [], []
    for kind in _TABLES:
        chosen, arguments = layer.of(kind)
        if len(chosen):
            rows.append(chosen)
            tables.append(_table(kind, pixels[chosen], arguments.view(-1, 1, 1)).expand(-1, 3, -1))
    if rows:
        index = torch.cat(rows)
        images = pixels[index].flatten(2).long()
        pixels[index] = torch.cat(tables).gather(2, images).view(-1, *pixels.shape[1:])


def _table(kind: Operation, images: Tensor, value: Tensor) -> Tensor:
    """Return (n, 3 or 1, 256) uint8 for the images (n, 3, S, S) and their values (n, 1, 1)."""
    level = torch.arange(256, device=images.device).expand(len(images), 1, 256)
    match kind:
        case Operation.AUTO_CONTRAST:
            table = _auto_contrast(images)
        case Operation.EQUALIZE:
            table = _equalize(images)
        case Operation.INVERT:
            table = 255 - level
        case Operation.POSTERIZE:
            table = level & ~((1 << (8 - value.long())) - 1)
        case Operation.SOLARIZE:
            table = torch.where(level < value, level, 255 - level)
        case Operation.SOLARIZE_ADD:
            table = torch.where(level < 128, (level + value.long()).clamp(max=255), level)
        case Operation.BRIGHTNESS:
            table = _blend(torch.zeros_like(level), level, value)
        case _:  # contrast: blend with the mean luma
            grey = _grey(images).flatten(1)
            mean = (grey.sum(1, dtype=torch.int64).double() / grey.shape[1] + 0.5).floor()
            table = _blend(mean.view(-1, 1, 1).expand_as(level), level, value)
    return table.to(torch.uint8)


def _histogram(images: Tensor) -> Tensor:
    """Return (n, 3, 256) int64 counts."""
    flat = images.flatten(2).long()
    counts = torch.zeros((*flat.shape[:2], 256), dtype=torch.int64, device=images.device)
    return counts.scatter_add_(2, flat, torch.ones_like(flat))


def _auto_contrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one level stays."""
    flat = images.flatten(2)
    low, high = (bound.double()[..., None] for bound in torch.aminmax(flat, dim=2))
    level = torch.arange(256, device=images.device, dtype=torch.float64).expand(*flat.shape[:2], 256)
    scale = torch.full_like(high, 255).div_(high - low)  # 255 / tensor would multiply by a rounded reciprocal
    stretched = (level * scale + -low * scale).clamp(0, 255)
    return torch.where(high > low, stretched, level)


def _equalize(images: Tensor) -> Tensor:
    """Spread each channel's levels evenly, with PIL's integer arithmetic."""
    counts = _histogram(images)
    level = torch.arange(256, device=images.device).expand_as(counts)
    last = torch.where(counts > 0, level, -1).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    before = counts.cumsum(2) - counts
    spread = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, spread, level)


def _apply_warps(pixels: Tensor, kinds: np.ndarray, values: np.ndarray, interpolation: str) -> None:
    """Sample all affine operations of a layer at once; places outside the image get the fill colour."""
    rows = np.flatnonzero(np.isin(kinds, _WARPS))
    if not len(rows):
        return
    size = pixels.shape[-1]
    matrices = np.array([_matrix(Operation(kinds[row]), float(values[row]), size) for row in rows])
    matrix = to_device(torch.from_numpy(matrices).float(), pixels.device)
    centre = torch.arange(size, device=pixels.device, dtype=torch.float32) + 0.5
    output = torch.stack([centre.repeat(size), centre.repeat_interleave(size), torch.ones_like(centre).repeat(size)])
    source = (matrix @ output).view(-1, 2, size, size)
    inside = ((source >= 0) & (source < size)).all(1, keepdim=True)
    index = to_device(torch.from_numpy(rows), pixels.device)
    grid = (2 * source / size - 1).permute(0, 2, 3, 1)
    sampled = F.grid_sample(pixels[index].float(), grid, interpolation, padding_mode="border", align_corners=False)
    fill = to_device(torch.tensor(FILL, dtype=torch.float32).view(3, 1, 1), pixels.device)
    pixels[index] = torch.where(inside, sampled.add_(0.5).clamp_(0, 255), fill).to(torch.uint8)


def _matrix(kind: Operation, value: float, size: int) -> list[list[float]]:
    """Return the 2x3 matrix from output to source pixels (x, y, 1), pixel centres at .5."""
    match kind:
        case Operation.SHEAR_X:
            return [[1, value, 0], [0, 1, 0]]
        case Operation.SHEAR_Y:
            return [[1, 0, 0], [value, 1, 0]]
        case Operation.TRANSLATE_X:
            return [[1, 0, value * size], [0, 1, 0]]
        case Operation.TRANSLATE_Y:
            return [[1, 0, 0], [0, 1, value * size]]
        case _:  # rotation about the centre
            cosine, sine, middle = math.cos(math.radians(value)), math.sin(math.radians(value)), size / 2
            x = middle - cosine * middle + sine * middle
            y = middle - sine * middle - cosine * middle
            return [[cosine, -sine, x], [sine, cosine, y]]

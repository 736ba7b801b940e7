"""PIL's Gaussian blur on a batch of uint8 views, each with its own radius, to the bit.

PIL stands three box blurs along the rows, then three along the columns, for a Gaussian; a box's two outermost pixels
count in part, and edges are repeated. Everything is done in fixed point, of 2^24 to a pixel.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.device import to_device

PASSES: Final = 3
WIDEST: Final = 2.4  # pixels: with larger radii a box has more than five
_ONE: Final = 1 << 24
_AT_ONCE: Final = 4  # images; a CPU's caches hold their integers
_AT_ONCE_ELSEWHERE: Final = 64


def blur(images: Tensor, radii: np.ndarray) -> Tensor:
    """Blur images (n, 3, S, S) uint8 with radii (n,) float32 in pixels, of at most WIDEST."""
    assert len(radii) == len(images) and radii.max(initial=0) <= WIDEST
    weights = to_device(torch.from_numpy(box_weights(radii)), images.device).view(3, -1, 1, 1, 1)
    at_once = _AT_ONCE if images.device.type == "cpu" else _AT_ONCE_ELSEWHERE
    starts = range(0, len(images), at_once)
    return torch.cat([_blur(images[n : n + at_once], weights[:, n : n + at_once]) for n in starts])


def _blur(images: Tensor, weights: Tensor) -> Tensor:
    for _ in range(2):
        for _ in range(PASSES):
            images = _box(images, weights)
        images = images.transpose(2, 3)
    return images


def box_weights(radii: np.ndarray) -> np.ndarray:
    """Return weights (3, n) int64 of a box's middle, next and outer pixels for Gaussian radii (n,), in 2^-24.

    The formula is that of Gwosdek et al. (SSVM 2011), rounded to float32 where PIL rounds.
    """
    single = np.float32
    variance = (radii.astype(single) ** 2 / single(PASSES)).astype(single)
    length = np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(single)
    whole = np.floor((length.astype(np.float64) - 1.0) / 2.0).astype(single)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) * (whole + 1)))
    full = (single(_ONE) / ((whole + share) * 2 + 1)).astype(np.int64)
    outer = (_ONE - (2 * whole.astype(np.int64) + 1) * full) // 2
    return np.where(whole > 0, np.stack([full, full, outer]), np.stack([full, outer, np.zeros_like(full)]))


def _box(images: Tensor, weights: Tensor) -> Tensor:
    """Blur along the rows with weights (3, n, 1, 1, 1) of the pixels 0, 1 and 2 away; rounded to uint8."""
    size = images.shape[-1]
    wide = F.pad(images.float(), (2, 2, 0, 0), mode="replicate").long()
    middle, left, right = wide[..., 2 : 2 + size], wide[..., 1 : 1 + size], wide[..., 3 : 3 + size]
    total = middle * weights[0] + (left + right) * weights[1]
    total += (wide[..., :size] + wide[..., 4 : 4 + size]) * weights[2]
    return ((total + (1 << 23)) >> 24).to(torch.uint8)

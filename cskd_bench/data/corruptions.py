"""Corrupted test images, made while they are read: `val@contrast/3` is split `val` under contrast at severity 3.

Eight of ImageNet-C's corruptions with its parameters (arXiv 1903.12261, severities 1 to 5), applied to the images
as they are stored. Each draw is keyed by corruption, severity and image, so every model meets the same pixels.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch.nn import functional as F

from cskd_bench.data.decode import decode
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.data.sources import Source, digest, stamp
from cskd_bench.errors import UserError

Corrupt = Callable[[np.ndarray, float, Generator], np.ndarray]  # (H, W, 3) in [0, 1], amount, draws -> the same shape


class CorruptedSource:
    """A source whose images are corrupted; `corruption` is NAME/SEVERITY. UserError for an unknown one."""

    def __init__(self, source: Source, corruption: str) -> None:
        name, _, severity = corruption.partition("/")
        if name not in CORRUPTIONS or severity not in ("1", "2", "3", "4", "5"):
            known = ", ".join(CORRUPTIONS)
            raise UserError(
                f"split ...@{corruption}: no such corruption; use NAME/1 to NAME/5 with NAME one of {known}"
            )
        amounts, self._corrupt = CORRUPTIONS[name]
        self._amount = amounts[int(severity) - 1]
        self._draws = list(CORRUPTIONS).index(name) * 5 + int(severity)
        self.clean = source
        self.labels = source.labels
        self.classes = source.classes
        self.identity = digest(f"{source.identity} {corruption}".encode())
        self.stamp = stamp(source)

    def __len__(self) -> int:
        return len(self.clean)

    def load(self, index: int) -> Image.Image:
        pixels = np.asarray(self.clean.load(index), dtype=np.float32) / 255
        draws = generator(0, Stream.CORRUPT, index=index, repeat=self._draws)
        corrupted = self._corrupt(pixels, self._amount, draws).clip(0, 1)
        return Image.fromarray((corrupted * 255).round().astype(np.uint8))


def _gaussian_noise(pixels: np.ndarray, scale: float, draws: Generator) -> np.ndarray:
    return pixels + draws.normal(scale=scale, size=pixels.shape)


def _shot_noise(pixels: np.ndarray, photons: float, draws: Generator) -> np.ndarray:
    return draws.poisson(pixels * photons) / photons


def _impulse_noise(pixels: np.ndarray, share: float, draws: Generator) -> np.ndarray:
    """Turn a share of the values black or white."""
    hit, white = draws.random(pixels.shape) < share, draws.random(pixels.shape) < 0.5
    return np.where(hit, white.astype(np.float32), pixels)


def _defocus_blur(pixels: np.ndarray, radius: float, draws: Generator) -> np.ndarray:
    """Average over a disc; the image is mirrored at its border."""
    reach = int(radius)
    ticks = torch.arange(-reach, reach + 1)
    disc = (ticks[:, None] ** 2 + ticks[None, :] ** 2 <= radius**2).float()
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    planes = torch.from_numpy(padded).permute(2, 0, 1)[:, None]
    blurred: np.ndarray = F.conv2d(planes, (disc / disc.sum())[None, None])[:, 0].permute(1, 2, 0).numpy()
    return blurred


def _contrast(pixels: np.ndarray, factor: float, draws: Generator) -> np.ndarray:
    means = pixels.mean((0, 1), keepdims=True)
    flatter: np.ndarray = (pixels - means) * factor + means
    return flatter


def _brightness(pixels: np.ndarray, added: float, draws: Generator) -> np.ndarray:
    """Raise HSV's value and keep hue and saturation: all channels grow by one factor."""
    value: np.ndarray = pixels.max(2, keepdims=True)
    brighter = np.minimum(value + added, 1)
    return np.where(value > 0, pixels * brighter / np.maximum(value, 1e-6), brighter)


def _pixelate(pixels: np.ndarray, share: float, draws: Generator) -> np.ndarray:
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    small = image.resize((max(1, int(image.width * share)), max(1, int(image.height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST), dtype=np.float32) / 255


def _jpeg_compression(pixels: np.ndarray, quality: float, draws: Generator) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(stored, "JPEG", quality=int(quality))
    return np.asarray(decode(stored.getvalue(), "a corrupted image"), dtype=np.float32) / 255


CORRUPTIONS: dict[str, tuple[tuple[float, ...], Corrupt]] = {
    "gaussian_noise": ((0.08, 0.12, 0.18, 0.26, 0.38), _gaussian_noise),
    "shot_noise": ((60, 25, 12, 5, 3), _shot_noise),
    "impulse_noise": ((0.03, 0.06, 0.09, 0.17, 0.27), _impulse_noise),
    "defocus_blur": ((3, 4, 6, 8, 10), _defocus_blur),
    "brightness": ((0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
    "contrast": ((0.4, 0.3, 0.2, 0.1, 0.05), _contrast),
    "pixelate": ((0.6, 0.5, 0.4, 0.3, 0.25), _pixelate),
    "jpeg_compression": ((25, 18, 15, 10, 7), _jpeg_compression),
}

"""Workers' part of the tensor engine: decode an image once, cut its crops as uint8, draw the rest."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.exif import UPRIGHT, jpeg_orientation
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.sources import ContentSource, Source
from cskd_bench.data.tensor.parameters import Crop, check_policy, draw_crop, draw_operations
from cskd_bench.data.train_views import Batch, TrainViews

_JPEG = b"\xff\xd8\xff"  # how every JPEG file begins


class TensorViews(TrainViews):
    """Makes uint8 crops of a list of keys; copies of one image are decoded once.

    Raises UserError for a policy in `augment` that only the PIL engine knows.
    """

    def __init__(self, source: Source, augment: AugmentConfig, image_size: int, seed: int, data: DataConfig) -> None:
        super().__init__(source, augment, image_size, seed, data)
        check_policy(augment)
        self._encoded = source if isinstance(source, ContentSource) else None

    def __getitems__(self, keys: Sequence[ViewKey]) -> Batch:
        skipped: list[str] = []
        crops = torch.empty(len(keys), 3, self._image_size, self._image_size, dtype=torch.uint8)
        labels = []
        decoded, image, label = -1, torch.empty(0), -1
        for row, key in enumerate(keys):
            if key.index != decoded:
                image, label = self._decode(key.index, skipped)
                decoded = key.index
            height, width = image.shape[-2:]
            crop = draw_crop(key, (height, width), self._augment, self._seed)
            crops[row] = cut(image, crop, self._image_size, self._augment.interpolation)
            labels.append(label)
        operations = draw_operations(keys, self._augment, self._seed)
        return replace(self._batch(crops, labels, keys, skipped), operations=operations)

    def decode(self, index: int) -> np.ndarray:
        jpeg = self._decode_jpeg(index)
        return super().decode(index) if jpeg is None else jpeg.permute(1, 2, 0).contiguous().numpy()

    def _decode(self, index: int, skipped: list[str]) -> tuple[Tensor, int]:
        """Return an image (3, H, W) uint8 and its label; damaged ones go the source's way, which names the fault."""
        if (kept := self._kept.get(index)) is not None:
            return torch.from_numpy(kept).permute(2, 0, 1), int(self._source.labels[index])
        if (jpeg := self._decode_jpeg(index)) is not None:
            return jpeg, int(self._source.labels[index])
        image, label = self._load(index, skipped)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), label

    def _decode_jpeg(self, index: int) -> Tensor | None:
        """Decode an upright JPEG with libjpeg, (3, H, W) uint8; None for everything else, and for damaged ones."""
        if self._encoded is None:
            return None
        try:
            content = self._encoded.content(index)
            if content.startswith(_JPEG) and jpeg_orientation(content) == UPRIGHT:
                encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                image: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB)
                return image
        except (OSError, RuntimeError):  # not a plain JPEG: PIL knows more kinds and names what is wrong
            pass
        return None


def cut(image: Tensor, crop: Crop, size: int, interpolation: str) -> Tensor:
    """Resize a crop of an image (3, H, W) uint8 to (3, size, size), antialiased; mirror it where asked."""
    box = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    box = box[None].contiguous(memory_format=torch.channels_last)  # interleaved colours: torch's fastest path
    resized = F.interpolate(box, size=(size, size), mode=interpolation, antialias=True)[0]
    return resized.flip(-1) if crop.flip else resized

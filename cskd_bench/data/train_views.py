"""Training views as workers make them, batch by batch, with all that is drawn for the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.erasing import Erasing, draw_erasing
from cskd_bench.data.keys import ViewKey, ViewKeys
from cskd_bench.data.mixing import Mixing, draw_mixing
from cskd_bench.data.sources import Source
from cskd_bench.data.tensor.parameters import Operations
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.data.views import TrainView, unchanged_generators
from cskd_bench.errors import UserError


@dataclass
class Batch:
    """Views as the loader delivers them: uint8 pixels (B, 3, S, S), labels (B,), their keys.

    What is still to be done on the device is drawn: `operations`, where the tensor engine made the pixels, then
    erasing, then mixing.
    """

    pixels: Tensor
    labels: Tensor
    keys: ViewKeys
    skipped: list[str] = field(default_factory=list)
    operations: Operations | None = None
    erasing: Erasing | None = None
    mixing: Mixing | None = None

    def pin_memory(self) -> "Batch":
        """Pin for asynchronous copies; DataLoader calls this."""
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())


class TrainViews(Dataset[Batch]):
    """Makes the views of a list of keys; copies of one image are decoded once."""

    def __init__(self, source: Source, augment: AugmentConfig, image_size: int, seed: int, data: DataConfig) -> None:
        self._source, self._augment, self._image_size, self._seed = source, augment, image_size, seed
        self._view = TrainView(augment, image_size, seed)
        self._skip = data.on_corrupt == "skip"
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._source)

    def keep(self, images: dict[int, np.ndarray]) -> None:
        """Take decoded images, as `decode` returns them, instead of decoding those again."""
        self._kept = images

    def decode(self, index: int) -> np.ndarray:
        """Return an image as (H, W, 3) uint8; UserError for one that cannot be decoded."""
        return np.array(self._source.load(index))

    def skips(self) -> bool:
        """Whether an image that cannot be decoded is left out, instead of ending the run."""
        return self._skip

    def __getitems__(self, keys: Sequence[ViewKey]) -> Batch:
        skipped: list[str] = []
        views, labels = [], []
        decoded, image, label = -1, None, -1
        with unchanged_generators():
            for key in keys:
                if key.index != decoded:
                    image, label = self._load(key.index, skipped)
                    decoded = key.index
                assert image is not None
                views.append(self._view(image, key.epoch, key.index, key.repeat))
                labels.append(label)
        return self._batch(torch.stack(views), labels, keys, skipped)

    def _batch(self, pixels: Tensor, labels: list[int], keys: Sequence[ViewKey], skipped: list[str]) -> Batch:
        """Draw what the device will do to the views, beside the operations of the tensor engine."""
        augment, size, seed = self._augment, self._image_size, self._seed
        return Batch(
            pixels,
            torch.tensor(labels),
            ViewKeys.of(keys),
            skipped,
            erasing=draw_erasing(keys, augment, size, seed),
            mixing=draw_mixing(keys, augment, size, seed),
        )

    def _load(self, index: int, skipped: list[str]) -> tuple[Image.Image, int]:
        """Load an image; under `skip`, a corrupt one is replaced by its next readable neighbour."""
        for offset in range(len(self._source)):
            neighbour = (index + offset) % len(self._source)
            try:
                kept = self._kept.get(neighbour)
                image = self._source.load(neighbour) if kept is None else Image.fromarray(kept)
                return image, int(self._source.labels[neighbour])
            except UserError as error:
                if not self._skip:
                    raise
                skipped.append(str(error))
        raise UserError("no image of the data set can be decoded")


@dataclass(frozen=True)
class RankShare:
    """Where the micro-batches of one rank begin and end: a loader's sampler of [step, part], across epochs."""

    plan: ViewPlan
    rank: int
    world: int
    parts: int
    first_step: int

    def __iter__(self) -> Iterator[list[int]]:
        return ([step, part] for step in range(self.first_step, self.plan.steps) for part in range(self.parts))

    def keys(self, step: int, part: int) -> list[ViewKey]:
        """Return the keys of a micro-batch."""
        share = self.plan.share(step, self.rank, self.world)
        size = len(share) // self.parts
        return share[part * size : (part + 1) * size]


class PlannedViews(Dataset[Batch]):
    """Makes the micro-batch of a [step, part]: a worker is told two numbers, not a key for every view."""

    def __init__(self, views: TrainViews, share: RankShare) -> None:
        self._views, self._share = views, share

    def __getitems__(self, place: Sequence[int]) -> Batch:
        return self._views.__getitems__(self._share.keys(*place))

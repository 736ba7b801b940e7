"""Training views in two halves: workers make uint8 pixels, the device finishes whole batches of them.

Under `pil` workers run timm's own transforms; under `tensor` they decode and cut, and RandAugment and colour
jitter are the device's work. Training and banks both come here, so that they see the same views.
"""

import torch
from torch import Tensor

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.erasing import erase
from cskd_bench.data.mixing import mix, smooth_labels, to_float
from cskd_bench.data.sources import Source
from cskd_bench.data.tensor.crops import TensorViews
from cskd_bench.data.tensor.operations import apply_operations
from cskd_bench.data.train_views import Batch, TrainViews


def worker_views(source: Source, augment: AugmentConfig, image_size: int, seed: int, data: DataConfig) -> TrainViews:
    """Return the workers' half of the engine that `augment` names; UserError for a policy that it cannot do."""
    views = TensorViews if augment.engine == "tensor" else TrainViews
    return views(source, augment, image_size, seed, data)


def augment_batch(batch: Batch, augment: AugmentConfig, device: torch.device) -> Tensor:
    """Move a batch's pixels to the device and do what the workers left to it: (B, 3, S, S) uint8, in place."""
    pixels = batch.pixels.to(device, non_blocking=True)
    if batch.operations is None:
        return pixels
    return apply_operations(pixels, batch.operations, augment.interpolation)


def finish_batch(batch: Batch, augment: AugmentConfig, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Augment, erase and mix a batch on the device: views (B, 3, S, S) in [0, 1] and soft labels (B, K).

    The batch is used up: on a CPU its pixels are changed in place. What is done was drawn with the batch.
    """
    views = erase(to_float(augment_batch(batch, augment, device)), batch.erasing)
    targets = smooth_labels(batch.labels.to(device, non_blocking=True), num_classes, augment.smoothing)
    if not augment.mixes:
        return views, targets
    assert batch.mixing is not None, f"{len(views)} views are not whole mixing groups of {augment.mix_group}"
    return mix(views, targets, batch.mixing)

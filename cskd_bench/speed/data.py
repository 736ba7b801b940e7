"""Part `data`: views per second and core from ImageNet-size JPEGs, RandAugment, three repeats of an image."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_train

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.decode import decode
from cskd_bench.data.engines import finish_batch
from cskd_bench.data.folders import is_image
from cskd_bench.data.sources import FolderSource
from cskd_bench.data.tensor.crops import TensorViews
from cskd_bench.data.train_views import TrainViews
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.errors import UserError
from cskd_bench.speed.measure import Clock, compare, table

_SIZE = (500, 375)
_IMAGES = 64
_VIEWS = 48


def measure_data(images: Path | None, rounds: int, clock: Clock, device: torch.device) -> dict[str, Any]:
    """Time the making of views in one thread; `images` is a folder of pictures, invented ones without it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write_jpegs(Path(folder) / "train" / "class", images)
            return _measure(FolderSource(Path(folder) / "train"), images, rounds, clock, device)
    finally:
        torch.set_num_threads(threads)


def _measure(
    source: FolderSource, images: Path | None, rounds: int, clock: Clock, device: torch.device
) -> dict[str, Any]:
    augment = AugmentConfig()
    plan = ViewPlan(len(source), _VIEWS, augment.repeats, rounds + 1, 0)
    crops = TensorViews(source, augment, 224, 0, DataConfig())
    makers: dict[str, Callable[[list[Any]], object]] = {
        "plain PIL + timm": partial(_plain, source, _plain_transform(augment)),
        "ours, PIL engine": TrainViews(source, augment, 224, 0, DataConfig()).__getitems__,
        "ours, tensor engine": crops.__getitems__,
    }
    steps = {name: iter(range(rounds + 1)) for name in makers}

    def make(name: str) -> None:
        makers[name](plan.keys(next(steps[name]) * plan.steps_per_epoch))

    worker = compare({name: partial(make, name) for name in makers}, rounds, clock)
    batch = crops.__getitems__(plan.keys(0))
    batch = replace(batch, pixels=batch.pixels.to(device), labels=batch.labels.to(device))

    def on_device() -> None:
        finish_batch(replace(batch, pixels=batch.pixels.clone()), augment, 1000, device)

    after = compare({"RandAugment, erasing, mixing": on_device}, rounds, clock)
    return {
        "what": f"{_SIZE[0]}x{_SIZE[1]} JPEG, quality 90, to 224 px; {augment.auto_augment}; {augment.repeats} repeats",
        "images": f"{images.name}, resized to that size" if images else "invented smooth pictures",
        "worker": table(worker, "plain PIL + timm", _VIEWS),
        "device": table(after, "RandAugment, erasing, mixing", _VIEWS),
        "note": "plain decodes each view and ends in normalised, erased tensors; ours end in uint8 pixels, "
        "and the tensor engine leaves RandAugment to the device (below; the device of this measurement)",
    }


def _plain_transform(augment: AugmentConfig) -> Any:
    return transforms_imagenet_train(
        224,
        scale=augment.crop_scale,
        ratio=augment.crop_ratio,
        auto_augment=augment.auto_augment,
        color_jitter=augment.color_jitter,
        interpolation=augment.interpolation,
        re_prob=augment.erasing,
        re_mode="pixel",
    )


def _plain(source: FolderSource, transform: Any, keys: list[Any]) -> torch.Tensor:
    return torch.stack([transform(source.load(key.index)) for key in keys])


def _write_jpegs(folder: Path, images: Path | None) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(_pictures(images)):
        picture.resize(_SIZE, Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg", quality=90)


def _pictures(images: Path | None) -> list[Image.Image]:
    if images is None:
        draw = np.random.default_rng(0)
        return [Image.fromarray(draw.integers(0, 256, (90, 120, 3), dtype=np.uint8)) for _ in range(_IMAGES)]
    files = sorted(path for path in images.rglob("*") if is_image(path.name))[:_IMAGES]
    if len(files) < _IMAGES:
        raise UserError(f"{images}: holds {len(files)} images; the data part needs {_IMAGES}")
    return [decode(path.read_bytes(), str(path)) for path in files]

"""What we add to MMDetection's and MMEngine's registries. Import only after operators.install()."""

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import FUNCTIONS
from torch import nn
from torch.utils.data import Sampler, get_worker_info

from cskd_bench.data.delivery import Pickled, deliver
from cskd_bench.data.randomness import Stream, integer_seed, permutation
from cskd_bench.detection.backbone import PlainViT
from cskd_bench.detection.epoch_lines import EpochLines
from cskd_bench.detection.lists import listed_entry, map_list
from cskd_bench.detection.necks import FourTapFPN, SimpleFeaturePyramid
from cskd_bench.errors import UserError


def register() -> None:
    """Make our parts known to mmdet under their class names; calling it again changes nothing."""
    for registry, part in (
        (MODELS, PlainViT),
        (MODELS, SimpleFeaturePyramid),
        (MODELS, FourTapFPN),
        (DATASETS, SharedCocoDataset),
        (DATASETS, KeyedCocoDataset),
        (DATA_SAMPLERS, EpochSampler),
        (HOOKS, KeyedSteps),
        (HOOKS, EpochLines),
        (OPTIM_WRAPPER_CONSTRUCTORS, LayerDecay),
        (FUNCTIONS, deliver_samples),
    ):
        registry.register_module(module=part, force=True)


def seed_everything(seed: int) -> None:
    """Seed the global generators that library code draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def deliver_samples(samples: Any) -> Any:
    """Return a batch as mmengine's `pseudo_collate` makes it, to be handed over even where shared memory is small.

    Images go through shared memory where there is room, as in all loaders; the objects on them are few bytes.
    """
    batch = pseudo_collate(samples)
    if get_worker_info() is not None:
        batch["data_samples"] = Pickled(batch["data_samples"])
    return deliver(batch)


class EpochSampler(Sampler[int]):
    """Yields keys epoch * n + index in an order that is a function of (seed, epoch), split over ranks.

    The order is padded from its beginning so that every rank has equally many.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, 0
        self.rank: int
        self.world: int
        self.rank, self.world = get_dist_info()

    def __iter__(self) -> Iterator[int]:
        images = len(self.dataset)
        order = np.resize(permutation(self.seed, self.epoch, images), len(self) * self.world)
        return (self.epoch * images + int(index) for index in order[self.rank :: self.world])

    def __len__(self) -> int:
        images: int = len(self.dataset)
        return -(-images // self.world)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; mmengine calls this."""
        self.epoch = epoch


class SharedCocoDataset(CocoDataset):  # type: ignore[misc]
    """A COCO data set whose images and objects are those of a file from `shared_list`, where there is one."""

    def __init__(self, *, list_file: str = "", **settings: Any) -> None:
        self.list_file = list_file
        super().__init__(**settings)

    def full_init(self) -> None:
        """Map the list into memory, or read the annotation file where no list can be read."""
        try:
            self.data_bytes, self.data_address = map_list(Path(self.list_file))
        except (OSError, ValueError):
            self.list_file = ""
            super().full_init()
        self._fully_initialized = True

    def get_data_info(self, idx: int) -> Any:
        """Return the annotations of image idx, counted from the end where it is negative."""
        if not self.list_file:
            return super().get_data_info(idx)
        place = idx % len(self)
        info = listed_entry(self.data_bytes, self.data_address, place)
        path = os.path.join(self.data_prefix["img"], info["img_path"])  # noqa: PTH118 - as mmdet writes it
        return {**info, "img_path": path, "sample_idx": place}


class KeyedCocoDataset(SharedCocoDataset):
    """A COCO data set whose augmentation of image i in epoch e is a function of (seed, e, i).

    It is indexed by the keys of EpochSampler, so that workers, ranks and interruptions change no view.
    """

    def __init__(self, *, seed: int, **settings: Any) -> None:
        self.seed = seed
        super().__init__(**settings)

    def prepare_data(self, idx: int) -> Any:
        """Return image idx % n as augmented in epoch idx // n."""
        epoch, index = divmod(int(idx), len(self))
        seed_everything(integer_seed(self.seed, Stream.VIEW, epoch, index))
        return super().prepare_data(idx)

    def get_data_info(self, idx: int) -> Any:
        """Return the annotations of image idx % n."""
        return super().get_data_info(int(idx) % len(self))


class KeyedSteps(Hook):  # type: ignore[misc]
    """Seeds what a training step draws (proposal sampling, stochastic depth) by (seed, epoch, step, rank)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rank, _ = get_dist_info()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the generators; mmengine calls this once the batch is loaded."""
        seed_everything(integer_seed(self.seed, Stream.STEP, runner.epoch, batch_idx, self.rank))


class WatchSteps(Hook):  # type: ignore[misc]
    """Calls `heed(where, what)` after every batch and epoch, which ends the run: on all ranks, where one must end.

    `what` is not finite there, the loss or a weight; empty where all is well.
    """

    def __init__(self, heed: Callable[[str, str], None]) -> None:
        self.heed = heed

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Look at the loss; mmengine calls this."""
        finite = math.isfinite(float(torch.as_tensor((outputs or {}).get("loss", 0.0)).detach()))
        self.heed(f"epoch {runner.epoch + 1}, step {batch_idx + 1}", "" if finite else "the loss")

    def after_train_epoch(self, runner: Any) -> None:
        """Look at the weights before they are kept and scored; mmengine calls this."""
        finite = all(bool(weight.isfinite().all()) for weight in runner.model.parameters())
        self.heed(f"epoch {runner.epoch + 1}", "" if finite else "a weight")


class LayerDecay(DefaultOptimWrapperConstructor):  # type: ignore[misc]
    """Layer-wise learning rates for a detector on PlainViT; paramwise_cfg = {"layer_decay": rate}."""

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Fill `params` with the optimiser's groups; mmengine calls this. UserError without PlainViT or a rate."""
        if not isinstance(module.backbone, PlainViT) or "layer_decay" not in self.paramwise_cfg:
            raise UserError("LayerDecay: needs the backbone PlainViT and paramwise_cfg=dict(layer_decay=RATE)")
        depth = module.backbone.depth
        params.extend(parameter_groups(module, depth, self.base_lr, self.base_wd, self.paramwise_cfg["layer_decay"]))


def parameter_groups(
    detector: nn.Module, depth: int, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group a detector's parameters: rate lr * layer_decay^(depth + 1 - layer), no decay for biases, norms, tokens.

    Layer 0 is the embedding, layer i block i - 1, layer depth + 1 the final norm, neck and heads, at the full rate.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_of(name, depth)
        decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "dist_token", "reg_token"))
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "lr": lr * layer_decay ** (depth + 1 - layer),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def layer_of(name: str, depth: int) -> int:
    """Return the layer of a detector's parameter, 0 to depth + 1, from its name."""
    prefix = "backbone.vit."
    if not name.startswith(prefix):
        return depth + 1
    first, *rest = name.removeprefix(prefix).split(".")
    if first == "blocks":
        return int(rest[0]) + 1
    return depth + 1 if first == "norm" else 0

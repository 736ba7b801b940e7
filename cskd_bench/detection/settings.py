"""A mmengine configuration, completed: what the task, the student and this machine decide is filled in here."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from cskd_bench.data.delivery import usable_workers
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.detection.annotations import CocoSplit
from cskd_bench.detection.checks import has_masks
from cskd_bench.detection.folder import epochs_done
from cskd_bench.detection.necks import pyramid_strides
from cskd_bench.device import precisions
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.models.students import Student
from cskd_bench.schema import shipped
from cskd_bench.task import DetectConfig

_SEEDS: Final = 2**32 - 2**16
_SIZES = ((192, "tiny"), (384, "small"))  # the widths of DeiT-Ti and DeiT-S; wider is "base"


@dataclass(frozen=True)
class StudentFacts:
    """What a detector's configuration depends on."""

    width: int
    patch_size: int
    mean: tuple[float, ...]  # of pixels in [0, 1], per channel
    std: tuple[float, ...]

    @classmethod
    def of(cls, student: Student) -> "StudentFacts":
        """Read them off a student; UserError for one without patch tokens."""
        model = student.model
        if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "blocks"):
            raise UserError(f"detection needs a plain ViT with patch tokens, not a {type(model).__name__}")
        height, width = model.patch_embed.patch_size
        if height != width:
            raise UserError(f"detection needs square patches, not {height} x {width} pixels")
        return cls(
            width=int(model.embed_dim),
            patch_size=int(height),
            mean=tuple(round(float(value), 6) for value in student.mean.flatten()),
            std=tuple(round(float(value), 6) for value in student.std.flatten()),
        )


def config_file(name: str, width: int) -> Path:
    """Find a configuration by path, by name, or by name and the student's size; UserError lists what there is."""
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    folder = shipped("configs") / "detection"
    size = next((size for limit, size in _SIZES if width <= limit), "base")
    for candidate in (folder / f"{name}.py", folder / f"{name}_{size}.py"):
        if candidate.is_file():
            return candidate
    known = sorted({file.stem.rsplit("_tiny")[0] for file in folder.glob("*.py")} - _sized(folder))
    raise UserError(f"detect.config: no configuration {name!r}; there are {', '.join(known)} (or give a .py file)")


def _sized(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.py") if file.stem.endswith(("_small", "_base"))}


def complete(detect: DetectConfig, facts: StudentFacts, classes: Sequence[str], seed: int) -> Any:
    """Return the mmengine Config of a detector, without anything that depends on this machine or the data's place.

    Channels follow the student's width, strides its patch size, heads the number of classes; `detect`
    replaces epochs (the schedule shrinks in proportion), global batch size and learning rate. Raises UserError
    for a file that is no such configuration.
    """
    file = config_file(detect.config, facts.width)
    config = read_config(file)
    try:
        _fill(config, detect, facts, classes, seed)
    except (AttributeError, KeyError) as error:
        raise UserError(f"{file}: lacks what the files of configs/detection have: {error}") from error
    return config


def read_config(file: Path) -> Any:
    """Return mmengine's configuration as its file gives it; UserError for a file that is none."""
    try:
        return copy.deepcopy(_parsed(file, file.stat().st_mtime_ns))
    except Exception as error:  # the file is Python, which can go wrong in every way
        raise UserError(f"{file}: cannot be read as a configuration of mmengine: {error}") from error


@lru_cache(maxsize=4)
def _parsed(file: Path, changed: int) -> Any:
    """Read a configuration file; that takes half a second, and every cell of a command asks for the same."""
    from mmengine.config import Config

    return Config.fromfile(file)


def _fill(config: Any, detect: DetectConfig, facts: StudentFacts, classes: Sequence[str], seed: int) -> None:
    _fit_model(config.model, facts, len(classes))
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.metainfo = {"classes": tuple(classes)}
        for step in loader.dataset.pipeline:
            if step.type == "LoadAnnotations":
                step.with_mask = has_masks(config)
    config.val_evaluator.metric = ["bbox", "segm"] if has_masks(config) else ["bbox"]
    config.train_dataloader.sampler.seed = seed
    config.train_dataloader.dataset.seed = seed
    for hook in config.get("custom_hooks", []):
        if hook.type == "KeyedSteps":
            hook.seed = seed
    config.randomness = {"seed": library_seed(seed)}
    if detect.epochs is not None:
        _set_epochs(config, detect.epochs)
    if detect.batch_size is not None:
        config.train_dataloader.batch_size = detect.batch_size
    if detect.frozen:
        config.model.backbone.frozen = True
    if detect.lr is not None:
        config.optim_wrapper.optimizer.lr = detect.lr


def library_seed(seed: int) -> int:
    """Return the seed of the libraries' generators, that very one where numpy takes it: workers add their number."""
    return seed if seed < _SEEDS else integer_seed(seed, Stream.MODEL) % _SEEDS


def _fit_model(model: Any, facts: StudentFacts, classes: int) -> None:
    strides = pyramid_strides(facts.patch_size)
    model.data_preprocessor.mean = [round(255 * value, 4) for value in facts.mean]
    model.data_preprocessor.std = [round(255 * value, 4) for value in facts.std]
    model.data_preprocessor.pad_size_divisor = strides[3]
    model.neck.in_channels = facts.width
    model.rpn_head.anchor_generator.strides = strides
    for name in ("bbox", "mask"):
        if f"{name}_head" in model.roi_head:
            model.roi_head[f"{name}_head"].num_classes = classes
            model.roi_head[f"{name}_roi_extractor"].featmap_strides = strides[:4]


def _set_epochs(config: Any, epochs: int) -> None:
    """Shorten or stretch a schedule; milestones keep their share of it."""
    before = config.train_cfg.max_epochs
    config.train_cfg.max_epochs = epochs
    config.train_cfg.val_interval = min(config.train_cfg.val_interval, epochs)
    for scheduler in config.param_scheduler:
        if scheduler.by_epoch:
            scheduler.end = epochs
            scheduler.milestones = sorted({max(1, round(epoch * epochs / before)) for epoch in scheduler.milestones})


def check_half(precision: str, device: torch.device) -> None:
    """UserError, before anything is computed, for a half precision that a GPU has no units for."""
    if device.type == "cuda" and precision not in precisions(device):
        raise UserError(f'detect.precision: this GPU has no units for "{precision}"; use "fp16" or "fp32"')


def place(
    config: Any, train: CocoSplit, val: CocoSplit, work: Path, *, ranks: Ranks, workers: int, precision: str
) -> None:
    """Fill in what depends on this machine: files, folders, workers, ranks and the arithmetic of its device."""
    workers = usable_workers(workers)
    batch, world, device = config.train_dataloader.batch_size, ranks.world, ranks.device
    if batch % world:
        raise UserError(f"detect.batch_size {batch} is not a multiple of the {world} processes that share it")
    config.train_dataloader.batch_size = batch // world
    for loader, split in ((config.train_dataloader, train), (config.val_dataloader, val)):
        loader.dataset.ann_file = str(split.annotations.resolve())
        loader.dataset.data_prefix = {"img": f"{split.images.resolve()}/"}
        loader.num_workers = workers
        loader.persistent_workers = workers > 0
        loader.setdefault("collate_fn", {"type": "deliver_samples"})
    config.val_evaluator.ann_file = str(val.annotations.resolve())
    config.val_evaluator.outfile_prefix = str(work.resolve() / "predictions")
    config.work_dir = str(work.resolve())
    if world > 1:
        config.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "device_ids": [device.index] if device.type == "cuda" else None,
        }
    config.resume = epochs_done(work) > 0
    if device.type == "cuda" and precision != "fp32":
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.dtype = {"fp16": "float16", "bf16": "bfloat16"}[precision]


def comparable(config: Any) -> dict[str, Any]:
    """Return the settings that decide a detector's score: all but the seed."""
    described: dict[str, Any] = _plain(config.to_dict())
    for seeded in (
        described,
        described["train_dataloader"]["sampler"],
        described["train_dataloader"]["dataset"],
        *described.get("custom_hooks", []),
    ):
        seeded.pop("seed", None)
    for name in ("randomness", "env_cfg", "log_level"):
        described.pop(name, None)
    return described


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

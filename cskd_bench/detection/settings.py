"""A mmengine configuration, completed: what the task, the student and this machine decide is filled in here."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from cskd_bench.data.delivery import usable_workers
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.detection.annotations import CocoSplit
from cskd_bench.detection.fitting import (
    StudentFacts,
    coco_metric,
    fit_model,
    has_masks,
    innermost,
    is_keyed,
    listed,
    loading_steps,
)
from cskd_bench.detection.folder import epochs_done
from cskd_bench.detection.students import describe_student
from cskd_bench.device import precisions
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.models.loaded import Loaded
from cskd_bench.schema import shipped
from cskd_bench.task import DetectConfig

_SEEDS: Final = 2**32 - 2**16
_PLUGIN: Final = "cskd_bench.detection.mmdet_plugin"
_MODEL: Final = ("model", "custom_imports", "default_scope", "default_hooks", "custom_hooks", "env_cfg", "log_level")
_TRAIN: Final = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "randomness")
_USED: Final = {*_MODEL, *_TRAIN, "val_dataloader", "val_cfg", "val_evaluator"}  # of all that a configuration holds


def config_file(name: str) -> Path:
    """Find a configuration by path or by name; UserError lists what there is."""
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    folder = shipped("configs") / "detection"
    if (folder / f"{name}.py").is_file():
        return folder / f"{name}.py"
    known = ", ".join(sorted(file.stem for file in folder.glob("*.py")))
    raise UserError(f"detect.config: no configuration {name!r}; there are {known} (or give a .py file)")


def complete(detect: DetectConfig, facts: StudentFacts, classes: Sequence[str], seed: int) -> Any:
    """Return the mmengine Config of a detector, without anything that depends on this machine or the data's place.

    Channels follow the student's width, strides its patch size, heads the number of classes; `detect`
    replaces epochs (the schedule shrinks in proportion), global batch size and learning rate. Raises UserError
    for a file that is no such configuration.
    """
    file = config_file(detect.config)
    config = read_config(file)
    try:
        _choose_width(config, facts.width)
        _fill(config, detect, facts, classes, seed)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
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


def _choose_width(config: Any, width: int) -> None:
    """Merge the first part of `by_width` that the student's width is within; None is without bound."""
    for part in config.pop("by_width", []):
        bound = part.pop("up_to")
        if bound is None or width <= bound:
            config.merge_from_dict(part)
            return


def _fill(config: Any, detect: DetectConfig, facts: StudentFacts, classes: Sequence[str], seed: int) -> None:
    fit_model(config.model, facts, len(classes))
    keyed, masks = is_keyed(config), has_masks(config)
    datasets = [innermost(loader.dataset) for loader in (config.train_dataloader, config.val_dataloader)]
    for dataset in datasets:
        dataset.metainfo = {"classes": tuple(classes)}
    for loader in (config.train_dataloader, config.val_dataloader):
        for step in loading_steps(loader.dataset):
            step.with_mask = masks
    metric = coco_metric(config)
    metric.metric = ["bbox", "segm"] if masks else ["bbox"]
    if keyed:
        config.train_dataloader.sampler.seed = seed
        config.train_dataloader.dataset.seed = seed
    else:
        _forget(config, *(config.keys() - _USED))
        for part in (*datasets, metric):
            _forget(part, "data_root", "ann_file", "data_prefix", "outfile_prefix")
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


def _forget(part: Any, *keys: str) -> None:
    """Leave out what a configuration of somebody's own says of its data's places: the task says that."""
    for key in keys:
        part.pop(key, None)


def library_seed(seed: int) -> int:
    """Return the seed of the libraries' generators, that very one where numpy takes it: workers add their number."""
    return seed if seed < _SEEDS else integer_seed(seed, Stream.MODEL) % _SEEDS


def _set_epochs(config: Any, epochs: int) -> None:
    """Shorten or stretch a schedule; what its parts begin, end and change at keeps its share of it."""
    before = config.train_cfg.max_epochs
    config.train_cfg.max_epochs = epochs
    config.train_cfg.val_interval = min(config.train_cfg.get("val_interval", 1), epochs)
    for scheduler in listed(config.get("param_scheduler") or []):
        if not scheduler.get("by_epoch", True):
            continue
        for key in {"begin", "end", "T_max"} & scheduler.keys():
            scheduler[key] = round(scheduler[key] * epochs / before)
        if "milestones" in scheduler:
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
        dataset = innermost(loader.dataset)
        dataset.ann_file = str(split.annotations.resolve())
        dataset.data_prefix = {"img": f"{split.images.resolve()}/"}
        loader.num_workers = workers
        loader.persistent_workers = workers > 0
        loader.setdefault("collate_fn", {"type": "deliver_samples"})
    metric = coco_metric(config)
    metric.ann_file = str(val.annotations.resolve())
    metric.outfile_prefix = str(work.resolve() / "predictions")
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


def openable(config: Any, model: Loaded) -> Any:
    """Return a placed configuration that `init_detector` and mmdet's test tool open by themselves, as detector.py.

    It imports our parts, describes the student's shape and tests on the validation split. It is of no identity.
    """
    from mmengine.config import Config

    whole = copy.deepcopy(config.to_dict())
    own = whole.get("custom_imports", {}).get("imports", [])
    whole["custom_imports"] = {"imports": [*own, _PLUGIN], "allow_failed_imports": False}
    whole["model"]["backbone"] |= describe_student(model.blueprint, model.image_size)
    whole |= {"test_cfg": {"type": "TestLoop"}, "resume": False}
    whole |= {f"test_{part}": copy.deepcopy(whole[f"val_{part}"]) for part in ("dataloader", "evaluator")}
    whole["test_dataloader"].pop("collate_fn")  # DetInferencer knows those that are a name
    for metric in listed(whole["test_evaluator"]):
        metric.pop("outfile_prefix", None)
    return Config(whole, cfg_text=_PLUGIN, filename="detector.py")


def comparable(config: Any) -> dict[str, Any]:
    """Return the settings that decide a detector's score: all but the seed."""
    described: dict[str, Any] = _plain(config.to_dict())
    for seeded in (
        described,
        *(described["train_dataloader"][part] for part in ("sampler", "dataset")),
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

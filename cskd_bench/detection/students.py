"""Students for a backbone that a configuration names: a run, a timm model, or the description of one."""

import warnings
from pathlib import Path
from typing import Any

import torch

from cskd_bench.data.mixing import IMAGENET_MEAN, IMAGENET_STD
from cskd_bench.detection.fitting import StudentFacts
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint, rebuild
from cskd_bench.models.external import TIMM_CONFIG, create, load_file
from cskd_bench.models.hub import is_hub_name
from cskd_bench.models.normalisation import normalisation
from cskd_bench.models.run_summary import Blueprint
from cskd_bench.schema import validate


def open_student(
    *,
    run: str,
    ema: bool,
    timm: str,
    options: dict[str, Any] | None,
    weights: str,
    student: dict[str, Any] | None,
    image_size: int | None,
) -> Any:
    """Return the timm model that exactly one of `run`, `timm` and `student` names, as PlainViT describes them.

    Warns where it expects other pixels than mmdet's own configurations give. UserError for what is not there or not
    whole.
    """
    if sum(map(bool, (run, timm, student))) != 1:
        raise UserError("PlainViT: give one student, by run=FOLDER or by timm=NAME with weights=FILE")
    if (weights or options) and not timm:
        raise UserError("PlainViT: weights and options belong to timm=NAME; a run has its own")
    if student:
        return _rebuilt(student, image_size)
    if run:
        found = _open_run(run, ema, image_size)
        vit, pixels = found.model, (found.mean, found.std)
    elif weights:
        found = load_file(Path(weights), timm, "ema" if ema else "raw", image_size, options).student
        vit, pixels = found.model, (found.mean, found.std)
    else:
        vit = create(timm, options or {}, image_size, "PlainViT")
        mean, std = normalisation(vit)
        pixels = torch.tensor(mean), torch.tensor(std)
    _tell_pixels(run or weights or timm, *(tuple(part.flatten().tolist()) for part in pixels))
    return vit


def _open_run(run: str, ema: bool, image_size: int | None) -> Any:
    path = Path(run)
    if not is_hub_name(run) and not path.exists():
        raise UserError(f"{run}: no such run; give the folder of a finished run or of an export, or timm=NAME")
    if path.is_file() and not (path.parent / TIMM_CONFIG).is_file():
        raise UserError(f"{run}: a weights file needs the name of its architecture: timm=NAME, weights={run!r}")
    return load_checkpoint(path, weights="ema" if ema else "raw", image_size=image_size).student


def _rebuilt(student: dict[str, Any], image_size: int | None) -> Any:
    """Build what `describe_student` has written, with random weights."""
    where = "PlainViT.student"
    if image_size is None:
        raise UserError(f"{where}: needs image_size, the side in pixels of its position embeddings")
    return rebuild(validate(Blueprint, student, where), 1, image_size, Path(where)).model


def describe_student(blueprint: Blueprint, image_size: int) -> dict[str, Any]:
    """Return settings of PlainViT that build a student of the same shape anywhere, without its weights."""
    return {"student": blueprint.model_dump(mode="json"), "image_size": image_size}


def _tell_pixels(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Warn of a mean and std that are not ImageNet's, which mmdet's own configurations have."""
    own, usual = (
        StudentFacts(0, 0, *(tuple(round(value, 6) for value in part) for part in pair)).pixels
        for pair in ((mean, std), (IMAGENET_MEAN, IMAGENET_STD))
    )
    if own != usual:
        warnings.warn(
            f"{name}: expects model.data_preprocessor to have mean={own[0]} and std={own[1]}, "
            "which are not those of mmdet's own configurations",
            stacklevel=4,
        )

"""What a configuration asks of a bank: the same views, the same teacher, and labels that it can give."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch

from cskd_bench.bank.claim import launcher_rank
from cskd_bench.bank.store import SOFT_CLASSES, Bank, differences, refusal
from cskd_bench.config import PretrainConfig
from cskd_bench.data.engines import augment_batch, worker_views
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import Source
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.errors import UserError
from cskd_bench.models.teachers import teacher_weights
from cskd_bench.record import sha256_file

_CHECKED_VIEWS = 16


def bank_plan(config: PretrainConfig, images: int) -> ViewPlan:
    """Return a plan whose steps are single mixing groups: a bank holds all of them, for every batch size."""
    augment, recipe = config.recipe.augment, config.recipe
    ViewPlan.of(recipe, images, config.seed)  # refuses what the run itself would refuse
    return ViewPlan(images, augment.mix_group if augment.mixes else 1, augment.repeats, recipe.epochs, config.seed)


def views_identity(config: PretrainConfig, source: Source) -> dict[str, Any]:
    """Return what the views of a run depend on, with a SHA-256 of the pixels of the first few."""
    augment = config.recipe.augment
    dataset = worker_views(source, augment, config.view_size, config.seed, config.data)
    plan = bank_plan(config, len(source))
    keys = [key for step in range(_CHECKED_VIEWS) for key in plan.keys(step)][:_CHECKED_VIEWS]
    pixels = augment_batch(dataset.__getitems__(keys), augment, torch.device("cpu"))
    return {
        "seed": config.seed,
        "data": source.identity,
        "images": len(source),
        "view_size": config.view_size,
        "augment": augment.model_dump(mode="json", exclude={"smoothing", "view_size"}),
        "pixels": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
    }


def teacher_identity(config: PretrainConfig) -> dict[str, Any]:
    """Return what a teacher's answers depend on; `weights` is None where its file is not on this machine."""
    teacher = config.teacher
    path = teacher_weights(teacher) if teacher.weights else None
    return {
        "name": teacher.name,
        "weights": sha256_file(path) if path is not None and path.is_file() else None,
        "image_size": teacher.image_size,
        "num_classes": teacher.num_classes,
        "output_stride": teacher.output_stride or 0,
    }


def teacher_source(config: PretrainConfig) -> Literal["timm", "file"]:
    """Say where a teacher's weights come from: a bank of the one never stands in for the other."""
    return "file" if config.teacher.weights else "timm"


def labels_identity(config: PretrainConfig, source: Source) -> dict[str, Any]:
    """Return what a bank's labels depend on, by the names of its manifest: the views and the teacher."""
    return {
        "views": views_identity(config, source),
        "teacher": teacher_identity(config),
        "teacher_source": teacher_source(config),
        "precision": config.teacher.precision,
    }


def why_no_bank(config: PretrainConfig) -> str:
    """Say why no bank can stand in for a run's teacher; empty where one can."""
    method, classes = config.method, config.data.num_classes
    if reason := method.why_no_bank():
        return reason
    if method.needs_all_logits and classes > SOFT_CLASSES:
        return (
            f"a bank keeps the {SOFT_CLASSES} largest of {classes} logits, and the loss of method {method.kind} reads "
            "all of them; it needs the teacher in the loop"
        )
    return ""


def open_matching_bank(folder: Path, config: PretrainConfig) -> Bank:
    """Open a bank for a run; UserError prints the difference, or what the bank lacks."""
    bank = Bank(folder)
    manifest = bank.manifest
    if reason := why_no_bank(config):
        raise UserError(f"{folder}: {reason}")
    source = open_source(config.data, config.data.train)
    asked = labels_identity(config, source) | {"num_classes": config.data.num_classes}
    if config.method.labels == "soft":
        if manifest.soft_classes < config.data.num_classes:  # else every logit is there, whatever the temperature
            asked["soft_temperature"] = config.method.soft_temperature
        if not manifest.soft_classes:
            kind = config.method.kind
            raise UserError(
                f"{folder}: has hard labels only, {kind} needs soft targets: build it from a {kind} configuration"
            )
    have = manifest.model_dump(mode="json", include=set(asked))
    if changes := differences(have, asked):
        raise UserError(f"{folder}: does not match this run. {refusal(changes, manifest.versions)}")
    if missing := bank.missing(range(config.recipe.epochs)):
        raise UserError(
            f"{folder}: lacks {len(missing)} of the run's shards ({missing[0].relative_to(folder)}, ...); "
            f"run bank build with the configuration it was begun with, recipe.epochs = {manifest.epochs}"
            if config.recipe.epochs <= manifest.epochs
            else f"{folder}: is declared for {manifest.epochs} epochs, the run has {config.recipe.epochs}: "
            "build another bank"
        )
    if launcher_rank()[0] == 0:
        manifest.tell_decoding(folder)
    return bank

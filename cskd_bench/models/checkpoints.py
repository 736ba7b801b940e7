"""Models from anywhere: runs of ours, as pretrained or fine-tuned, weights files, and timm's pretrained weights."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from cskd_bench.config import StudentConfig
from cskd_bench.errors import UserError
from cskd_bench.models.external import TIMM_CONFIG, create, find_weights, load_file
from cskd_bench.models.hub import is_hub_name, load_pretrained
from cskd_bench.models.loaded import Loaded as Loaded  # imported from here, like the function that makes it
from cskd_bench.models.loaded import count_parameters
from cskd_bench.models.preprocessing import Preprocessing
from cskd_bench.models.run_summary import RUN_FILE, Blueprint, RunSummary, TunedSummary, read_summary
from cskd_bench.models.students import Student, build_student, initial_student
from cskd_bench.models.weights import Weights, fill, load_state, plain_state
from cskd_bench.record import NO_PRETRAINING, CheckpointRef, ModelRef, sha256_file
from cskd_bench.schema import validate


def load_checkpoint(
    path: Path,
    *,
    model: str = "",
    weights: Weights = "raw",
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Loaded:
    """Load a run folder or a milestone of one, a folder or weights file that timm reads, or timm's pretrained weights.

    A weights file needs the name of its timm `model`, unless a config.json beside it names one. Pretrained weights are
    `timm:NAME` and `hf-hub:USER/REPO`. `image_size` rebuilds the student for another resolution and resizes its
    position embeddings; `preprocessing` replaces mean and std.
    Raises UserError for an unfinished run, a missing file, weights of another model, and weights that are not finite.
    """
    loaded = _load(path, model, weights, image_size)
    return loaded.prepared(preprocessing, path) if preprocessing else loaded


def _load(path: Path, model: str, weights: Weights, image_size: int | None) -> Loaded:
    if is_hub_name(str(path)):
        if model:
            raise UserError(f"{path}: knows its model; --model is for weights files")
        if weights != "raw":
            kind = "averaged" if weights == "ema" else weights
            raise UserError(f"{path}: has no {kind} weights, only its own; leave --weights out")
        return load_pretrained(str(path), image_size)
    if path.is_dir():
        if model:
            raise UserError(f"{path}: a run folder knows its model; --model is for weights files")
        if weights != "initial" and not (path / RUN_FILE).exists() and (path / TIMM_CONFIG).is_file():
            return load_file(find_weights(path), "", weights, image_size)
        return _load_run(path, weights, image_size)
    if weights == "initial" and path.exists():
        raise UserError(f"{path}: is a weights file; --weights initial needs the run folder, which holds the seed")
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; give a run folder, or a weights file with --model TIMM_NAME")
    if not model and not (path.parent / TIMM_CONFIG).is_file():
        raise UserError(f"{path}: a weights file needs --model, the timm name of its architecture")
    return load_file(path, model, weights, image_size)


def _load_run(folder: Path, weights: Weights, image_size: int | None) -> Loaded:
    summary = read_summary(folder)
    if weights == "initial":
        return _draw_anew(folder, summary, image_size)
    kind = "model" if weights == "raw" else "ema"
    file = folder / f"{kind}.safetensors"
    if not file.is_file():
        raise UserError(f"{file}: no such file; this run has no {weights} weights")
    digest = sha256_file(file)
    if digest != summary.sha256.get(kind):
        raise UserError(f"{file}: does not match the checksum in run.json; the file was changed or damaged")
    if isinstance(summary, TunedSummary):
        return _load_tuned(folder, summary, digest, image_size)
    loaded = _built(folder, summary, weights, digest, image_size)
    load_state(loaded.student, file)
    return loaded


def _draw_anew(folder: Path, summary: RunSummary | TunedSummary, image_size: int | None) -> Loaded:
    """Return a run's student as its seed drew it: the method that learns nothing before a task, to compare with."""
    if isinstance(summary, TunedSummary):
        raise UserError(f"{folder}: was fine-tuned; --weights initial takes the run that it began with")
    state = plain_state(initial_student(summary.config))
    begun = summary.model_copy(update={"milestone": None})  # the same before every epoch
    loaded = _built(folder, begun, "initial", hashlib.sha256(save(state)).hexdigest(), image_size)
    fill(loaded.student, state, folder)
    return replace(loaded, method=NO_PRETRAINING)


def _built(folder: Path, summary: RunSummary, weights: Weights, digest: str, image_size: int | None) -> Loaded:
    """Return a pretraining's student with random weights, and what records say of it."""
    config = summary.config
    blueprint = Blueprint(name=config.student.name, student=config.student, heads=config.method.heads)
    size = image_size or config.student.image_size
    student = rebuild(blueprint, config.data.num_classes, size, folder)
    return Loaded(
        student=student.eval(),
        image_size=size,
        num_classes=config.data.num_classes,
        classes=summary.classes,
        checkpoint=CheckpointRef(
            run=config.name if summary.milestone is None else f"{config.name}-epoch-{summary.milestone}",
            weights=weights,
            sha256=digest,
            pretrain_seed=config.seed,
            pretrain_recipe=config.recipe_fingerprint(summary.milestone),
            pretrain_data=config.data_name,
            pretrain_images=summary.identity,
        ),
        method=summary.method,
        model=ModelRef(name=config.model_name, image_size=size, parameters=count_parameters(student)),
        pretrain_config=config,
        blueprint=blueprint,
        crop=config.data.eval_crop,
        interpolation=config.recipe.augment.interpolation,
        milestone=summary.milestone,
    )


def _load_tuned(folder: Path, summary: TunedSummary, digest: str, image_size: int | None) -> Loaded:
    """Load a fine-tuned student; its recipe is the fine-tuning's, so that it stands beside no pretrained one."""
    tuning, begun = summary.tuning, summary.checkpoint
    size = image_size or tuning.image_size
    student = rebuild(summary.blueprint, summary.num_classes, size, folder)
    load_state(student, folder / "model.safetensors")
    for buffer, values in ((student.mean, summary.mean), (student.std, summary.std)):
        buffer.copy_(torch.tensor(values, dtype=buffer.dtype).view_as(buffer))
    return Loaded(
        student=student.eval(),
        image_size=size,
        num_classes=summary.num_classes,
        classes=summary.classes,
        checkpoint=CheckpointRef(
            run=f"{begun.run}-tuned-{tuning.task}-s{tuning.seed}",
            weights="raw",
            sha256=digest,
            pretrain_seed=begun.pretrain_seed,
            pretrain_recipe=tuning.recipe,
            pretrain_data=tuning.data,
            pretrain_images=begun.pretrain_images,
        ),
        method=summary.method,
        model=summary.model.model_copy(update={"image_size": size, "parameters": count_parameters(student)}),
        pretrain_config=summary.config,
        blueprint=summary.blueprint,
        crop=summary.crop,
        interpolation=summary.interpolation,
        tuning=tuning,
    )


def rebuild(blueprint: Blueprint, num_classes: int, image_size: int, folder: Path) -> Student:
    """Build a student with random weights as its blueprint says; UserError for a size that it cannot have."""
    if blueprint.student is None:
        options = blueprint.arguments | {"num_classes": num_classes}
        student = Student(create(blueprint.name, options, image_size, str(folder)), blueprint.heads)
    else:
        settings = blueprint.student.model_dump() | {"image_size": image_size}
        student = build_student(validate(StudentConfig, settings, str(folder)), num_classes, blueprint.heads)
    if blueprint.dropped:
        student.drop_distillation_head()
    return student

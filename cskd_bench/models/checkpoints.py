"""Models from anywhere: a finished run of ours, or a weights file with the name of its timm model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from cskd_bench.config import PretrainConfig, StudentConfig
from cskd_bench.errors import UserError
from cskd_bench.methods import METHODS
from cskd_bench.models import architectures
from cskd_bench.models.run_summary import read_run
from cskd_bench.models.students import Student, build_student
from cskd_bench.models.weights import Weights, load_state
from cskd_bench.outputs import Heads
from cskd_bench.record import CheckpointRef, MethodRef, ModelRef, sha256_file
from cskd_bench.schema import validate


@dataclass(frozen=True)
class Loaded:
    """A student with its weights, and what a record says of it."""

    student: Student
    image_size: int
    num_classes: int
    classes: tuple[str, ...]
    checkpoint: CheckpointRef
    method: MethodRef
    model: ModelRef
    pretrain_config: PretrainConfig | None  # None: not a run of ours

    def weights_identity(self) -> dict[str, Any]:
        """Return what tells this model from any other: the weights and, where no run says it, their architecture."""
        if self.pretrain_config:
            return {"checkpoint": self.checkpoint.sha256}
        inside = {} if self.checkpoint.weights == "raw" else {"weights": self.checkpoint.weights}
        return {"checkpoint": self.checkpoint.sha256, "model": self.model.name, "heads": self.student.heads, **inside}

    def stated_recipe(self) -> str:
        """Return what ids of records hold of the pretraining's recipe; empty where no run of ours says it."""
        return self.pretrain_config.stated_recipe() if self.pretrain_config else ""

    def pretrain_identity(self) -> dict[str, Any]:
        """Return what decided the pretraining's result, for records: no folders of this machine."""
        return self.pretrain_config.identity() if self.pretrain_config else {}


def load_checkpoint(path: Path, *, model: str = "", weights: Weights = "raw", image_size: int | None = None) -> Loaded:
    """Load a run folder, or a weights file of the timm model named `model`.

    `image_size` rebuilds the student for another resolution and resizes its position embeddings.
    Raises UserError for an unfinished run, a missing file, weights of another model, and weights that are not finite.
    """
    if path.is_dir():
        if model:
            raise UserError(f"{path}: a run folder knows its model; --model is for weights files")
        return _load_run(path, weights, image_size)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; give a run folder, or a weights file with --model TIMM_NAME")
    if not model:
        raise UserError(f"{path}: a weights file needs --model, the timm name of its architecture")
    return _load_file(path, model, weights, image_size)


def _load_run(folder: Path, weights: Weights, image_size: int | None) -> Loaded:
    summary = read_run(folder)
    config, kind = summary.config, "model" if weights == "raw" else "ema"
    file = folder / f"{kind}.safetensors"
    if not file.is_file():
        raise UserError(f"{file}: no such file; this run has no {weights} weights")
    digest = sha256_file(file)
    if digest != summary.sha256.get(kind):
        raise UserError(f"{file}: does not match the checksum in run.json; the file was changed or damaged")
    size = image_size or config.student.image_size
    settings = validate(StudentConfig, config.student.model_dump() | {"image_size": size}, str(folder))
    student = build_student(settings, config.data.num_classes, METHODS[config.method.kind].heads)
    load_state(student, file)
    return Loaded(
        student=student.eval(),
        image_size=size,
        num_classes=config.data.num_classes,
        classes=summary.classes,
        checkpoint=CheckpointRef(
            run=config.name,
            weights=weights,
            sha256=digest,
            pretrain_seed=config.seed,
            pretrain_recipe=config.recipe_fingerprint(),
            pretrain_data=config.data_name,
            pretrain_images=summary.identity,
        ),
        method=summary.method,
        model=ModelRef(name=config.model_name, image_size=size, parameters=_count(student)),
        pretrain_config=config,
    )


def _load_file(path: Path, name: str, weights: Weights, image_size: int | None) -> Loaded:
    architectures.register()
    if not timm.is_model(name):
        raise UserError(f"--model: timm has no model {name!r}")
    options = {} if image_size is None else {"img_size": image_size}
    try:
        built = timm.create_model(name, **options)
    except TypeError:
        built = timm.create_model(name)  # CNNs take any size and know no img_size
    heads: Heads = "class"
    if hasattr(built, "dist_token"):
        heads = "class+dist+patch" if name.startswith("cskd_") else "class+dist"
    load_state(built, path, weights)
    student = Student(built, heads)
    size = image_size or int(built.pretrained_cfg["input_size"][-1])
    digest = sha256_file(path)
    # two files are two models, and many are called model.safetensors
    named = f"{path.stem}@{digest[:8]}" + (" ema" if weights == "ema" else "")
    return Loaded(
        student=student.eval(),
        image_size=size,
        num_classes=built.num_classes,
        classes=(),
        checkpoint=CheckpointRef(run=named, weights=weights, sha256=digest),
        method=MethodRef(kind="external", label=f"external ({named})"),
        model=ModelRef(name=name.replace("_distilled_", "_"), image_size=size, parameters=_count(student)),
        pretrain_config=None,
    )


def _count(student: Student) -> int:
    return sum(parameter.numel() for parameter in student.parameters())

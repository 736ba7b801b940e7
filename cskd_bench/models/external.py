"""Models that are not runs of ours: weights files, folders that timm reads, and timm's pretrained weights."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import timm
import torch

from cskd_bench.config import why_no_grid
from cskd_bench.errors import UserError
from cskd_bench.models import architectures
from cskd_bench.models.loaded import Loaded, count_parameters
from cskd_bench.models.normalisation import normalisation
from cskd_bench.models.run_summary import Blueprint
from cskd_bench.models.state_names import FileHead, drop_head, find_head, find_model
from cskd_bench.models.students import Student
from cskd_bench.models.timm_names import check_name
from cskd_bench.models.weights import Weights, fill, own_tensors, read_state
from cskd_bench.names import readable
from cskd_bench.outputs import Heads
from cskd_bench.record import CheckpointRef, MethodRef, ModelRef, sha256_file

TIMM_CONFIG: Final = "config.json"
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")  # of a folder, as timm and our export name them
_CROP: Final = 0.875  # timm's, where a model says nothing


@dataclass(frozen=True)
class Description:
    """What is known of a model beside its weights: timm name, arguments, and timm's configuration of a file."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> int | None:
        """The side of its images in pixels, None where only the model says it."""
        size = self.arguments.get("img_size") or self.settings.get("input_size")
        side = size[-1] if isinstance(size, list | tuple) and size else size
        return side if isinstance(side, int) else None


def load_file(
    path: Path, model: str, weights: Weights, image_size: int | None, arguments: dict[str, Any] | None = None
) -> Loaded:
    """Load a weights file of the timm model `model` with `arguments`; without a name, as config.json beside it says.

    A classifier that is missing, or of a shape that the model cannot have, is left out: `no_head` says why.
    UserError for a file that is not all of the model's backbone, or not only that.
    """
    described = Description(model, arguments or {}) if model else read_description(path.parent)
    image_size = image_size or described.image_size
    built = create(described.name, described.arguments, image_size, str(path))
    state = find_model(read_state(path, weights), own_tensors(built).keys())
    classifiers = _classifiers(built)
    head = find_head(state, own_tensors(built), classifiers)
    if head.classes != built.num_classes:
        built.reset_classifier(head.classes)
    fill(built, state if head.classes else drop_head(state, classifiers), path)
    digest = sha256_file(path)
    # two files are two models, and many are called model.safetensors
    return describe(built, described, f"{readable(path.stem)}@{digest[:8]}", digest, weights, head, image_size)


def find_weights(folder: Path) -> Path:
    """Return the weights file of a folder that timm reads; UserError where there is none."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has a {TIMM_CONFIG} and no weights next to it ({' or '.join(_WEIGHTS)})")


def read_description(folder: Path) -> Description:
    """Read the config.json of a folder that timm reads, ours or one from a hub; UserError for anything else."""
    path = folder / TIMM_CONFIG
    try:
        content = json.loads(path.read_bytes())
        name = content["architecture"]
        settings = content.get("pretrained_cfg", content)
        arguments = content.get("model_args") or {}
        whole = isinstance(name, str) and isinstance(settings, dict) and isinstance(arguments, dict)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: names no timm architecture; give its weights file with --model TIMM_NAME") from error
    if not whole:
        raise UserError(f"{path}: names no timm architecture; give its weights file with --model TIMM_NAME")
    return Description(name, arguments, settings)


def create(name: str, arguments: dict[str, Any], image_size: int | None, where: str) -> Any:
    """Build a timm model with random weights for images of `image_size` px (None: its own).

    UserError for a name that timm does not know, and for arguments or a size that the model cannot have.
    """
    architectures.register()
    check_name(name, where)
    sized = {} if image_size is None else {"img_size": image_size}
    try:
        try:
            built = timm.create_model(name, **(arguments | sized))
        except TypeError:
            without = {key: value for key, value in arguments.items() if key != "img_size"}
            built = timm.create_model(name, **without)  # CNNs take any size and know no img_size
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: timm cannot build {name!r} with {arguments | sized} ({error})") from error
    check_size(built, image_size, where)
    return built


def check_size(built: Any, image_size: int | None, where: str) -> None:
    """UserError for images that do not divide into the model's patches, or that the model does not take."""
    if image_size is None:
        return
    patch = getattr(getattr(built, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (problem := why_no_grid(image_size, patch[0])):
        raise UserError(f"{where}: {problem}")
    if not hasattr(built, "num_prefix_tokens"):  # no plain ViT: only trying tells
        try:
            with torch.no_grad():
                built.eval()(torch.zeros(1, 3, image_size, image_size))
        except (AssertionError, RuntimeError) as error:
            raise UserError(f"{where}: this model does not run at {image_size} px ({error})") from error


def heads_of(built: Any, name: str) -> Heads:
    """Return the heads whose mean a timm model answers with."""
    if not hasattr(built, "dist_token"):
        return "class"
    return "class+dist+patch" if name.startswith("cskd_") else "class+dist"


def describe(
    built: Any,
    described: Description,
    named: str,
    digest: str,
    weights: Weights,
    head: FileHead,
    image_size: int | None,
) -> Loaded:
    """Return a built model with its weights as a student, and what records say of it."""
    heads = heads_of(built, described.name)
    student = Student(built, heads)
    settings = dict(built.pretrained_cfg) | {key: v for key, v in described.settings.items() if v is not None}
    try:
        for buffer, key, own in zip((student.mean, student.std), ("mean", "std"), normalisation(built), strict=True):
            buffer.copy_(torch.tensor(settings.get(key, own), dtype=buffer.dtype).view_as(buffer))
        own_size = described.image_size or int(settings["input_size"][-1])
        crop = float(settings.get("crop_pct") or _CROP)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise UserError(f"{named}: {TIMM_CONFIG} has no usable mean, std, input_size or crop_pct ({error})") from error
    size = image_size or own_size
    labels = settings.get("label_names")
    labels = labels if isinstance(labels, list | tuple) and len(labels) == head.classes else ()
    named += " ema" if weights == "ema" else ""
    return Loaded(
        student=student.eval(),
        image_size=size,
        num_classes=head.classes,
        classes=tuple(map(str, labels)),
        checkpoint=CheckpointRef(run=named, weights=weights, sha256=digest),
        method=MethodRef(kind="external", label=f"external ({named})"),
        model=ModelRef(name=_say_model(described), image_size=size, parameters=count_parameters(student)),
        pretrain_config=None,
        blueprint=Blueprint(name=described.name, arguments=described.arguments, heads=heads),
        crop=crop,
        interpolation=str(settings.get("interpolation") or "bicubic"),
        no_head=head.reason,
        differs=_differences(student, own_size, described.name, built),
    )


def _differences(student: Student, size: int, name: str, built: Any) -> dict[str, Any]:
    """Return mean, std and size where they are not those that timm's name alone gives: one file may be used as both."""
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    usual = known.to_dict() if known else dict(built.pretrained_cfg)
    mean, std = map(torch.tensor, normalisation(SimpleNamespace(pretrained_cfg=usual)))
    here = {"mean": student.mean.flatten(), "std": student.std.flatten()}
    found = {key: here[key].tolist() for key, own in (("mean", mean), ("std", std)) if not torch.equal(here[key], own)}
    return found if size == usual["input_size"][-1] else {**found, "image_size": size}


def _classifiers(built: Any) -> tuple[str, ...]:
    found = built.pretrained_cfg.get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def _say_model(described: Description) -> str:
    """Name a model in tables: timm's name and what was changed of it, as students of ours are named."""
    changed = {key: value for key, value in described.arguments.items() if key not in ("img_size", "num_classes")}
    plain = described.name.replace("_distilled_", "_")
    return plain + "".join(f" {key.replace('_', '-')}={value}" for key, value in sorted(changed.items()))

"""The parts of a detector's configuration that its student and its data decide, wherever MMDetection has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cskd_bench.detection.necks import pyramid_strides
from cskd_bench.errors import UserError
from cskd_bench.models.students import Student

SOURCES: Final = ("run", "ema", "timm", "options", "weights", "student", "image_size")  # where a PlainViT is from


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

    @property
    def pixels(self) -> tuple[list[float], list[float]]:
        """Mean and std as a data_preprocessor has them: RGB, of pixels from 0 to 255."""
        return [round(255 * value, 4) for value in self.mean], [round(255 * value, 4) for value in self.std]


def fit_model(model: Any, facts: StudentFacts, classes: int) -> None:
    """Set channels, strides, normalisation and the number of classes where a detector has them.

    Its heads may be lists (Cascade R-CNN) and stand beside a roi_head or in it. What the backbone says of another ViT
    is left out. UserError for a backbone that is no PlainViT.
    """
    if model.backbone.type != "PlainViT":
        raise UserError(f'model.backbone is {model.backbone.type!r}; make it dict(_delete_=True, type="PlainViT")')
    for source in SOURCES:
        model.backbone.pop(source, None)
    neck = listed(model.neck)[0]
    neck.in_channels = facts.width
    strides = pyramid_strides(facts.patch_size, neck.get("start_level", 0), neck.get("num_outs", 5))
    model.data_preprocessor.mean, model.data_preprocessor.std = facts.pixels
    model.data_preprocessor.pad_size_divisor = 2 * facts.patch_size
    for name, part in parts(model):
        if name in ("bbox_head", "mask_head") and "num_classes" in part:
            part.num_classes = classes
        if "featmap_strides" in part:
            part.featmap_strides = strides[: len(part.featmap_strides)]
        for holder in (part, *(part[key] for key in ("anchor_generator", "prior_generator") if key in part)):
            if "strides" in holder:
                holder.strides = strides


def parts(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield every head and every extractor of regions with its name, each of a list by itself."""
    for holder in (model, model.get("roi_head") or {}):
        for name, value in holder.items():
            if name.endswith(("_head", "_roi_extractor")) and value:
                yield from ((name, part) for part in listed(value))


def listed(value: Any) -> list[Any]:
    """Return what may be one or a list as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def has_masks(config: Any) -> bool:
    """Whether the detector of a configuration predicts masks."""
    return any(name == "mask_head" for name, _ in parts(config.model))


def innermost(dataset: Any) -> Any:
    """Return the data set that reads annotations, however many wrap it; UserError where one wraps several."""
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "datasets" in dataset:
        raise UserError(f"{dataset.type}: a task has one set of training images and one to score; name one data set")
    return dataset


def loading_steps(dataset: Any) -> Iterator[Any]:
    """Yield the steps that load annotations, of a data set and of all that it wraps."""
    while dataset:
        yield from (step for step in dataset.get("pipeline") or () if step.type == "LoadAnnotations")
        dataset = dataset.get("dataset")


def coco_metric(config: Any) -> Any:
    """Return the evaluator that scores by COCO's rules; UserError where there is none."""
    found = [metric for metric in listed(config.val_evaluator) if metric.type == "CocoMetric"]
    if not found:
        raise UserError("val_evaluator: has no CocoMetric, whose predictions are scored")
    return found[0]


def is_keyed(config: Any) -> bool:
    """Whether each image's augmentation is a function of seed and epoch; UserError where only half of that is there."""
    loader = config.train_dataloader
    dataset: bool = loader.dataset.type == "KeyedCocoDataset"
    sampler: bool = loader.sampler.type == "EpochSampler"
    if dataset != sampler or (not dataset and innermost(loader.dataset).type == "KeyedCocoDataset"):
        raise UserError("KeyedCocoDataset and EpochSampler belong together, with nothing wrapped around the data set")
    return dataset

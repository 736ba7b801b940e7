"""A downstream task: data, protocols, metric and recipe, versioned; one TOML in tasks/."""

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cskd_bench.config import DataConfig, Probability, RunConfig
from cskd_bench.errors import UserError
from cskd_bench.names import readable
from cskd_bench.outputs import Features
from cskd_bench.schema import PathText, StrictModel, apply_overrides, fingerprint, shipped, validate
from cskd_bench.task_finetune import FinetuneConfig as FinetuneConfig  # imported from here, like all settings
from cskd_bench.task_finetune import used_settings
from cskd_bench.task_identity import used_by
from cskd_bench.task_multilabel import MultilabelConfig
from cskd_bench.task_recipes import development_tasks, list_tasks, read_task

Protocol = Literal["finetune", "linear", "knn", "kshot", "lowlabel", "detect", "segment", "multilabel", "evaluate"]
Metric = Literal["top1", "mean_per_class", "box_ap", "miou", "map"]

_OF_CLASSES: tuple[Metric, ...] = ("top1", "mean_per_class")
_METRICS: dict[Protocol, tuple[Metric, ...]] = {  # that each protocol gives
    "finetune": _OF_CLASSES,
    "linear": _OF_CLASSES,
    "knn": _OF_CLASSES,
    "kshot": _OF_CLASSES,
    "lowlabel": _OF_CLASSES,
    "detect": ("box_ap",),
    "segment": ("miou",),
    "multilabel": ("map",),
    "evaluate": _OF_CLASSES,
}


class LinearConfig(StrictModel):
    """Logistic regression on frozen features; the inverse penalty C is chosen on validation, by the task's metric.

    `choose_by`: "top1" is what release 0.1.0 did for every metric; without the key a record means that.
    """

    c_grid: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.01, 0.1, 1.0, 10.0, 100.0)
    max_iter: PositiveInt = 1000
    validation: Probability = 0.2
    torch_from: PositiveInt = 50_000  # training images from which torch's L-BFGS on the device takes over
    choose_by: Annotated[Literal["metric", "top1"], Field(exclude_if=lambda rule: bool(rule == "top1"))] = "metric"


class KnnConfig(StrictModel):
    """Cosine k-nearest neighbours with votes weighted by exp(similarity / temperature)."""

    k: PositiveInt = 20
    temperature: float = Field(default=0.07, ge=0.02)  # exp(1 / T) must stay a finite fp32 number


class KshotConfig(StrictModel):
    """Logistic regression on k labelled images a class, at a fixed C: one image leaves nothing to select C on.

    The score of the last entry of `shots` is the record's headline.
    """

    shots: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10)
    c: PositiveFloat = 1.0
    max_iter: PositiveInt = 1000


class LowlabelConfig(StrictModel):
    """Train on a share of every class's labels, by the task's `linear` or `finetune` settings.

    The score of the last entry of `fractions` is the record's headline. `schedule` of fine-tuning: as many steps as on
    all images, or as many passes over the few; without the key a record means the latter.
    """

    fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.01, 0.1)
    classifier: Literal["finetune", "linear"] = "linear"
    schedule: Annotated[Literal["steps", "epochs"], Field(exclude_if=lambda kept: bool(kept == "epochs"))] = "steps"


class EvaluateConfig(StrictModel):
    """Score the checkpoint's own head, restricted to the task's classes.

    `real_labels` names a JSON beside the images that lists the right classes of each (ReaL, arXiv 2006.07159).
    """

    real_labels: str = ""


class DetectConfig(StrictModel):
    """Object detection through MMDetection: a configuration of configs/detection and what may differ from it.

    `config` is a file there without its ending, or the path of one. None keeps the configuration's own value.
    `batch_size` is global. A `frozen` backbone stays as pretrained.
    """

    config: str = "mask_rcnn_1x"
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    lr: PositiveFloat | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # the CPU always computes in fp32
    frozen: Annotated[bool, Field(exclude_if=lambda frozen: not frozen)] = False
    pictures: NonNegativeInt = 4


class SegmentConfig(StrictModel):
    """A linear head on frozen patch tokens; the inverse penalty C is chosen on validation, by mIoU.

    `size` is the height and width that images are resized to, in pixels; None: the student's square. `validation` is
    the share of training images to choose on, where `data.val` names no split. Of more labelled patches than
    `max_patches`, that many are drawn. `ignore_index` is the value of pixels that do not count. `names`: the classes'.
    `features` names the definition of what the head sees.
    """

    features: Literal["patch tokens@1"] = "patch tokens@1"  # after the student's final norm, under every method
    size: tuple[PositiveInt, PositiveInt] | None = None
    c_grid: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    max_iter: PositiveInt = 1000
    validation: Probability = 0.2
    max_patches: PositiveInt = 1_000_000
    ignore_index: NonNegativeInt = 255
    names: tuple[str, ...] = ()


class TaskData(DataConfig):
    """A task's images; `test` is the split that a record reports and nothing selects on.

    `stands_for` is the root of the task's file where another folder was given on the command line: the task is
    the same wherever its images lie, and whatever their folder is called. `objects`: detection on label maps; each
    connected region of these classes, called so, is an object.
    """

    val: str = ""
    test: str = "test"
    splits: Literal["own", "published"] = "own"  # published: duplicates across splits are noted, not refused
    source: str = ""
    licence: str = ""
    by_hand: str = ""
    objects: Annotated[dict[str, NonNegativeInt], Field(default_factory=dict, exclude_if=lambda named: not named)]
    stands_for: PathText = ""


class TaskSpec(StrictModel):
    """One downstream task, complete: records embed it whole.

    `features`: what probes read of a frozen student, the same tokens under every method: the class token, the class
    token beside the mean patch token, or what the method's inference rule averages. Without the key a record means the
    last, which differs between methods. `features_version` changes with the definition; it is not for setting.
    `run` is how fine-tuning is carried out on this machine, and part of no identity.
    """

    name: str
    version: PositiveInt = 1
    description: str = ""
    group: Literal["classification", "robustness", "detection", "segmentation"] = (
        "classification"  # where a report lists it
    )
    protocols: tuple[Protocol, ...]
    metric: Metric = "top1"
    image_size: PositiveInt | None = None  # None: the student's own
    features: Annotated[Features, Field(exclude_if=lambda kind: bool(kind == "inference"))] = "cls+patch"
    features_version: Literal[1] = 1
    published_as: str = ""  # the data set's name in published.toml, where the published scores are of this recipe
    data: TaskData
    finetune: FinetuneConfig = FinetuneConfig()
    linear: LinearConfig = LinearConfig()
    knn: KnnConfig = KnnConfig()
    kshot: KshotConfig = KshotConfig()
    lowlabel: LowlabelConfig = LowlabelConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    detect: DetectConfig = DetectConfig()
    segment: SegmentConfig = SegmentConfig()
    multilabel: MultilabelConfig = MultilabelConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _teacher_has_the_classes(cls, data: Any) -> Any:
        """Fill in the classes of a teacher whose weights are a file, where nobody states them."""
        try:
            teacher = data["finetune"]["teacher"]
            if not teacher["weights"] or "num_classes" in teacher:
                return data
            filled = {**teacher, "num_classes": data["data"].get("num_classes", 1000)}
            return {**data, "finetune": {**data["finetune"], "teacher": filled}}
        except (KeyError, TypeError, AttributeError):  # no teacher, or no table: validation says it
            return data

    @model_validator(mode="after")
    def _usable(self) -> "TaskSpec":
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name {self.name!r}: use letters, digits, '.', '_' and '-'; it names files")
        if not self.protocols:
            raise ValueError("protocols is empty: name at least one")
        for protocol in self.protocols:
            if self.metric not in _METRICS[protocol]:
                raise ValueError(f'protocol "{protocol}" gives {" or ".join(_METRICS[protocol])}, not {self.metric}')
        if self.finetune.method and (problem := self.finetune.method.why_whole_batch(self.run.accumulate)):
            raise ValueError(problem)
        if self.run.keep_every:
            raise ValueError("run.keep_every is for pretraining alone: fine-tuning keeps its last weights")
        return self

    def identity(self, protocol: str = "") -> dict[str, Any]:
        """Return what a protocol's score depends on, without where the files lie on this machine.

        Without a protocol: the whole task, with the settings of all its protocols.
        """
        data = self.model_dump(mode="json", exclude={"description", "group", "published_as", "run"})
        used = set(self.protocols) | ({"finetune", "linear"} if "lowlabel" in self.protocols else set())
        for settings in set(get_args(Protocol)) - used:
            del data[settings]
        if self.features == "inference":
            del data["features_version"]
        if self.metric == "top1" and "linear" in data:
            data["linear"].pop("choose_by", None)
        if "finetune" in data:
            data["finetune"] = used_settings(data["finetune"])
            if self.finetune.teacher:
                data["finetune"]["teacher"]["weights"] = self.finetune.teacher.weights_identity
        data["data"]["root"] = readable(Path(self.data.stands_for or self.data.root).name)
        if detect := data.get("detect"):
            detect["config"] = _name_config(Path(self.detect.config))
        for prose in ("splits", "source", "licence", "by_hand", "stands_for"):
            del data["data"][prose]
        return used_by(protocol, data) if protocol else data

    def fingerprint(self, protocol: str = "") -> str:
        """Name the content that a protocol uses: results under different fingerprints are never averaged."""
        return fingerprint(self.identity(protocol))


def _changed(spec: TaskSpec, filed: TaskSpec) -> bool:
    """Whether overrides made another task of a filed one; where its images lie, and the precision, do not."""

    def compared(task: TaskSpec) -> dict[str, Any]:
        data = task.data.model_copy(update={"root": "", "stands_for": ""})
        recipe = task.finetune.model_copy(update={"precision": "fp32"})
        return task.model_copy(update={"data": data, "finetune": recipe}).identity()

    return compared(spec) != compared(filed)


def _name_config(config: Path) -> str:
    """Name a configuration of MMDetection; one of the user's own also by its content, which may change."""
    if config.suffix != ".py" or not config.is_file():
        return config.name
    return f"{config.name}@{hashlib.sha256(config.read_bytes()).hexdigest()[:8]}"


def task_files(tasks_dir: Path | None = None) -> dict[str, Path]:
    """Map task names to files: shipped, then those of entry points, then the user's folder.

    A file with further recipes has a name for each.
    """
    folders = [shipped("tasks")]
    folders.extend(Path(str(entry.load())) for entry in entry_points(group="cskd_bench.tasks"))
    if tasks_dir is not None:
        if not tasks_dir.is_dir():
            raise UserError(f"{tasks_dir}: no such folder (--tasks-dir)")
        folders.append(tasks_dir)
    return list_tasks(folders)


def load_task(name: str, tasks_dir: Path | None = None, overrides: Sequence[str] = ()) -> TaskSpec:
    """Load a task by its name or by the path of its TOML; `recipe=deit` takes another recipe of that file."""
    path, named = Path(name), Path(name).stem
    if path.suffix != ".toml":
        files = task_files(tasks_dir)
        hidden = {} if name in files else development_tasks()
        if name not in files | hidden:
            raise UserError(f"no task {name!r}; there are {', '.join(sorted(files))} (or give the path of a TOML file)")
        path, named = (files | hidden)[name], name
    recipe = next((text.partition("=")[2].strip() for text in overrides if text.startswith("recipe=")), "")
    overrides = [text for text in overrides if not text.startswith("recipe=")]
    data = read_task(path, named, recipe)
    spec = validate(TaskSpec, apply_overrides(data, overrides), str(path))
    if spec.published_as and _changed(spec, validate(TaskSpec, data, str(path))):
        spec = spec.model_copy(update={"published_as": ""})
    own_root = data.get("data", {}).get("root")
    if own_root in (None, spec.data.root):
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"stands_for": str(own_root)})})

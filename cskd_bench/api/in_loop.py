"""A student inside somebody else's training loop: normalised images in, timm's names in checkpoints."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from cskd_bench.data.mixing import resize_view
from cskd_bench.errors import UserError
from cskd_bench.models.students import Student
from cskd_bench.outputs import StudentOutput


class Unnormalize(nn.Module):
    """Takes a loader's normalised images (B, 3, S, S) back to views in [0, 1], in fp32 or more."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.as_tensor(values, dtype=torch.float32) for values in (mean, std))
        if means.shape != (3,) or stds.shape != (3,) or not means.isfinite().all() or not (stds > 0).all():
            raise UserError(f"mean {mean} and std {std}: give three numbers each, std above 0")
        self._changes = bool((means != 0).any() or (stds != 1).any())
        self.register_buffer("mean", means.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", stds.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return views; UserError for images of another shape, and for pixels that no loader has normalised."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise UserError(f"images: are {tuple(images.shape)}; give square ones, (B, 3, S, S)")
        if not images.is_floating_point():
            raise UserError(f"images: are {images.dtype}; give floating ones, normalised with mean and std")
        images = images if images.element_size() >= 4 else images.float()
        return images * self.std + self.mean if self._changes else images


class StudentInLoop(nn.Module):
    """The trained module of a task, and the model that timm evaluates and keeps.

    Called as timm calls a model, it gives logits (B, K) by the method's inference rule; with `heads=True` what a
    loss needs, at the teacher's places `grid` = (h, w) where it matches those. Its state_dict holds timm's own
    names, so that a checkpoint is one of the timm model.
    """

    def __init__(self, student: Student, unnormalize: Unnormalize) -> None:
        super().__init__()
        self.student = student
        self.unnormalize = unnormalize
        self.image_size = _image_size(student.model)
        self.register_state_dict_post_hook(_use_timm_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_use_own_names)  # type: ignore[no-untyped-call]

    def forward(
        self, images: Tensor, heads: bool = False, grid: tuple[int, int] | None = None
    ) -> Tensor | StudentOutput:
        """Map a loader's images (B, 3, S, S), resized where the student has another size, to logits."""
        views = self.unnormalize(images)
        if self.image_size is not None:
            views = resize_view(views, self.image_size)
        views = views.to(self.student.mean.dtype)  # of the weights, which the task may have been converted to
        if heads:
            output: StudentOutput = self.student(views, grid)
            return output
        return self.student.predict(views)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that timm's optimisers leave without weight decay."""
        model = self.student.model
        names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
        return {f"student.model.{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Any:
        """Say which layer a parameter belongs to, for timm's layer-wise learning rates; added heads are the last."""
        model = self.student.model
        layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        last = max(layers.values())
        return lambda name: layers.get(name.removeprefix("student.model."), last)


def _image_size(model: Any) -> int | None:
    """Return the side in pixels that a ViT was built for; None for models that take any. UserError if not square."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None and size[0] != size[1]:
        raise UserError(f"student: is built for {size[0]} x {size[1]} px; build it for square images, img_size=S")
    return None if size is None else int(size[0])


def _use_timm_names(module: StudentInLoop, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}student.")]:
        state[prefix + _timm_name(name.removeprefix(f"{prefix}student."))] = state.pop(name)


def _use_own_names(module: StudentInLoop, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in module.student.state_dict():
        given = prefix + _timm_name(name)
        if given in state:
            state[f"{prefix}student.{name}"] = state.pop(given)


def _timm_name(name: str) -> str:
    return name.removeprefix("model.")

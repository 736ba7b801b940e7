"""CSKD as a timm training task: five lines put it into your own timm loop (docs/api.md)."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cskd_bench.api.in_loop import StudentInLoop, Unnormalize
from cskd_bench.api.loss import CSKDLoss, check_targets
from cskd_bench.errors import UserError
from cskd_bench.models.normalisation import normalisation
from cskd_bench.models.students import Student
from cskd_bench.models.teachers import Teacher
from cskd_bench.outputs import Targets


class CSKDTask(TrainingTask):  # type: ignore[misc]
    """Trains a student with CSKD, or another method of `CSKDLoss`, in a timm loop.

    `student` is a `Student` or a timm ViT. `teacher` is a `Teacher`, a timm CNN or ViT, or the name of a pretrained
    one. It is None where the loss needs none, or where the loop passes its own targets. `mean` and `std` are the
    loader's normalisation, by default that of the student's timm configuration. For images in [0, 1] they are
    (0, 0, 0) and (1, 1, 1).

    Call `set_epoch` at the start of every epoch, from 0: the fusion ratio of `epochs` epochs follows it. The teacher
    stays frozen, in its own precision, out of DDP and out of every state_dict. UserError for models that do not fit
    each other or the loss.
    """

    teacher: Teacher | None
    trainable_module: Any

    def __init__(
        self,
        student: Student | nn.Module,
        teacher: Teacher | nn.Module | str | None,
        criterion: CSKDLoss | None = None,
        *,
        epochs: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        criterion = _loss(criterion)
        student = student if isinstance(student, Student) else Student.from_timm(student, criterion.heads)
        super().__init__(device or next(student.parameters()).device, dtype, verbose)
        self.criterion = criterion
        self.epochs = _whole_number(epochs, 1, f"epochs: is {epochs}; give the number of epochs of the whole run")
        self.epoch = 0
        self._told, self._trained = False, False  # of an epoch; anything
        found = _matching_teacher(student, teacher, criterion)
        own_mean, own_std = normalisation(student.model)
        self.unnormalize = Unnormalize(own_mean if mean is None else mean, own_std if std is None else std)
        self.student = StudentInLoop(student, self.unnormalize)
        # Neither is a submodule: state_dict has the student once, under the same names whatever wraps it.
        self.__dict__["teacher"] = found
        self.__dict__["trainable_module"] = self.student
        self.to(self.device)

    def forward(self, input: Tensor, target: Tensor, *, targets: Targets | None = None) -> dict[str, Tensor]:
        """Return `loss`, `output` (the class head's logits (B, K), for metrics) and the loss's parts.

        `input` (B, 3, S, S) is normalised, `target` class indices (B,) or probabilities (B, K). `targets`, on the
        images' device, replace the teacher's: a bank's labels of exactly these views. UserError for other shapes.
        """
        self._trained = self._trained or self.training
        if targets is None:
            targets = self._teacher_targets(input)
        else:
            check_targets(targets, len(input))
        places = targets.spatial_target
        grid = None if places is None else (places.shape[-2], places.shape[-1])
        output = self.trainable_module(input, heads=True, grid=grid)
        with torch.autocast(input.device.type, enabled=False):
            parts = self.criterion(output, targets, target)
        if "total" not in parts:
            raise UserError(f"criterion: {type(self.criterion).__name__} gives {', '.join(parts)}, but no 'total'")
        rest = {name: part for name, part in parts.items() if name != "total"}
        return {"loss": parts["total"], "output": output.class_logits, **rest}

    def _teacher_targets(self, images: Tensor) -> Targets:
        if not self.criterion.needs_teacher:
            return Targets()
        if self.teacher is None:
            raise UserError("teacher: is None, and no targets were given; this loss needs one of the two")
        with torch.no_grad():
            views = self.unnormalize(images).float()  # the teacher's own type, whatever the student's is
            return self.criterion.targets(self.teacher(views), self.ratio)

    @property
    def ratio(self) -> float:
        """The fusion ratio of this epoch, a number on the host, so that no compiled graph holds it."""
        return self.criterion.ratio_at(min(self.epoch / self.epochs, 1.0))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0; epochs after the last keep the last ratio. UserError for a negative one."""
        self.epoch = _whole_number(epoch, 0, f"epoch: is {epoch}; count epochs from 0")
        self._told = True

    def train(self, mode: bool = True) -> "CSKDTask":
        """Set the mode of the student; the teacher stays in evaluation mode."""
        if mode and self._trained and not self._told and self.ratio != self.criterion.ratio_at(1 / self.epochs):
            warnings.warn("CSKDTask: call set_epoch(epoch) in every epoch; the fusion ratio stands still", stacklevel=2)
            self._told = True
        super().train(mode)
        self.trainable_module.train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def prepare_distributed(self, device_ids: list[Any] | None = None, **ddp_kwargs: Any) -> "CSKDTask":
        """Wrap the student in DDP. Each rank has its own teacher and losses."""
        self.__dict__["trainable_module"] = DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **ddp_kwargs
        )
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> Any:
        """Compile student and teacher and return the model to evaluate; UserError after prepare_distributed."""
        if isinstance(self.trainable_module, DistributedDataParallel):
            raise UserError("compile: the student is wrapped in DDP already; call compile before prepare_distributed")
        compiled = torch.compile(self.student, backend=backend, mode=mode, **compile_kwargs)
        self.__dict__["trainable_module"] = self.__dict__["eval_model"] = compiled
        if self.teacher is not None:
            self.teacher.compile_features(backend, mode)
        return compiled

    def setup_ema(
        self, decay: float = 0.9999, use_warmup: bool = False, device: torch.device | None = None, **kwargs: Any
    ) -> ModelEmaV3:
        """Average the student's weights, as timm does, under the same names with and without DDP or torch.compile."""
        self.trainable_module_ema = ModelEmaV3(
            self.student, decay=decay, use_warmup=use_warmup, device=device, **kwargs
        )
        return self.trainable_module_ema

    def compile_ema(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> Any:
        """Compile the averaged model, if there is one; state_dict keeps the average once."""
        compiled = super().compile_ema(backend=backend, mode=mode, **compile_kwargs)
        if compiled is not None:
            self.__dict__["eval_model_ema"] = self._modules.pop("eval_model_ema")
        return compiled

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return what timm's checkpoints keep with the weights: the epoch."""
        return {} if ema else self.get_extra_state()

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Take the epoch out of a timm checkpoint; one without it leaves the epoch as it is."""
        if state and "epoch" in state and not ema:
            self.set_extra_state(state)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the part of state_dict that is no tensor."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the epoch out of a state_dict."""
        self.epoch = int(state["epoch"])

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> "CSKDTask":
        """Move the teacher along; it keeps its own precision where the student's type changes."""
        super()._apply(fn, *args, **kwargs)
        if self.teacher is not None:
            self.teacher.to(self.device)
        return self


def _loss(criterion: Any) -> CSKDLoss:
    if criterion is None:
        return CSKDLoss()
    if isinstance(criterion, CSKDLoss):
        return criterion
    given = getattr(criterion, "__name__", type(criterion).__name__)
    raise UserError(f"criterion: is {given}; give a CSKDLoss, such as CSKDLoss(alpha=0.3) or CSKDLoss(DeiT())")


def _whole_number(value: Any, least: int, otherwise: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(otherwise) from None
    if number < least:
        raise UserError(otherwise)
    return number


def _matching_teacher(student: Student, teacher: Teacher | nn.Module | str | None, loss: CSKDLoss) -> Teacher | None:
    """Return the teacher of a loss; UserError where student, teacher and loss do not fit each other."""
    if student.heads != loss.heads:
        raise UserError(
            f"student: answers by {student.heads!r}, this loss trains {loss.heads!r}; "
            f"build Student(model, heads={loss.heads!r})"
        )
    if student.heads == "class" and hasattr(student.model, "dist_token"):
        student.distillation_head.requires_grad_(False)  # DDP waits for the gradient of every weight that has one
    if teacher is None or not loss.needs_teacher:
        return None
    found = teacher if isinstance(teacher, Teacher) else Teacher.from_timm(teacher)
    if found.num_classes != student.model.num_classes:
        raise UserError(
            f"teacher: has {found.num_classes} classes, the student {student.model.num_classes}; take a teacher of the "
            "student's classes, or name them with Teacher.from_timm(..., class_indices=...)"
        )
    return found

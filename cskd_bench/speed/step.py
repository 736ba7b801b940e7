"""Part `step`: our training step from a bank and with a teacher, beside plain, timm's, and the student alone.

Every side gets the same views in memory, already mixed: making views is part `data`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.task import ClassificationTask, TokenDistillationTask, TrainingTask
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from cskd_bench.bank.envelope import upper_envelope
from cskd_bench.bank.pack import pack
from cskd_bench.bank.shard import write_shard
from cskd_bench.bank.store import Bank, BankManifest, begin_bank, shard_path
from cskd_bench.bank.targets import BankTargets
from cskd_bench.cells.pretrain import initial_student
from cskd_bench.config import (
    CSKD,
    AugmentConfig,
    MethodConfig,
    Precision,
    PretrainConfig,
    Recipe,
    RunConfig,
    StudentConfig,
    Supervised,
    TeacherConfig,
)
from cskd_bench.data.mixing import ViewKey, resize_view
from cskd_bench.device import computing
from cskd_bench.engine.finite import Advice, FiniteWatch
from cskd_bench.engine.optim import build_optimizer, set_learning_rate
from cskd_bench.engine.targets import NoTargets, TargetProvider, TeacherTargets
from cskd_bench.methods import objective_of
from cskd_bench.models.labeller import make_fast
from cskd_bench.models.students import choose_attention
from cskd_bench.models.teachers import Teacher
from cskd_bench.speed.measure import Clock, compare, table
from cskd_bench.speed.plain import PlainStep

_RATIO = 0.5  # of an epoch in the middle of the run: 1 - 150/300


@dataclass(frozen=True)
class StepSize:
    """What is trained on how many views, and how; `compile` compiles our student and teacher, and timm's."""

    student: str = "deit_tiny_patch16_224"
    teacher: str = "regnety_160"
    batch: int = 8
    image_size: int = 224
    rounds: int = 9
    compile: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"


class OurStep:
    """The step of the training loop (engine/training.py), with its own student, optimiser and EMA."""

    def __init__(self, config: PretrainConfig, targets: TargetProvider, device: torch.device) -> None:
        self._config = config
        self._method = objective_of(config.method)
        self._targets = targets
        self._device = device
        self._student = initial_student(config).to(device).train()
        choose_attention(self._student, device, config.recipe.precision)
        self._module: Any = torch.compile(self._student) if config.run.compile == "all" else self._student
        self._optimizer = build_optimizer(self._student, config.recipe.optim)
        self._ema = ModelEmaV3(self._student, decay=config.recipe.ema_decay)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        advice = Advice(config.recipe.precision, config.teacher.precision)
        self._watch = FiniteWatch(self._optimizer, scaler, list(self._student.parameters()), advice, device)

    def __call__(self, views: Tensor, labels_BK: Tensor, keys: list[ViewKey]) -> None:
        """Take one step."""
        config = self._config
        set_learning_rate(self._optimizer, config.recipe.optim.lr)
        targets = self._targets(views, self._targets.look_up(keys, _RATIO), _RATIO)
        with computing(self._device, config.recipe.precision):
            output = self._module(resize_view(views, config.student.image_size), self._targets.grid)
        loss = self._method.losses(config.method, output.in_fp32(), targets, labels_BK)["total"]
        self._watch.guard(loss, targets.finite).backward()  # type: ignore[no-untyped-call]
        self._watch.check()
        self._watch.update(config.recipe.optim.clip_grad, lambda: "in a measurement")
        self._ema.update(self._student)


class TimmStep:
    """timm's TokenDistillationTask (hard), or without a teacher its ClassificationTask; fused optimiser, timm's EMA."""

    def __init__(self, size: StepSize, teacher: nn.Module | None, device: torch.device) -> None:
        self._device, self._precision = device, size.precision
        name = size.student if teacher is None else size.student.replace("_patch", "_distilled_patch", 1)
        student = timm.create_model(name, img_size=size.image_size).to(device).train()
        criterion = _SoftTargetCrossEntropy()
        self._task: TrainingTask
        if teacher is None:
            self._task = ClassificationTask(student, criterion, device=device, verbose=False)
        else:
            self._task = TokenDistillationTask(
                student, teacher, criterion, distill_type="hard", task_loss_weight=0.5, device=device, verbose=False
            )
        self._task.train()
        if size.compile:
            self._task.compile()
        self._student = student
        self._optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
        self._ema = ModelEmaV3(student, decay=0.99996)
        mean, std = (student.pretrained_cfg[name] for name in ("mean", "std"))
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, views: Tensor, labels_BK: Tensor) -> None:
        """Take one step."""
        with computing(self._device, self._precision):
            loss = self._task((views - self._mean) / self._std, labels_BK)["loss"]
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._ema.update(self._student)


class _SoftTargetCrossEntropy(nn.Module):
    def forward(self, logits: Tensor, labels_BK: Tensor) -> Tensor:
        return -(labels_BK * logits.log_softmax(1)).sum(1).mean()


def measure_step(size: StepSize, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Time one step of every side; weights are random, which changes no operation."""
    precision = size.precision
    torch.manual_seed(0)
    views = torch.rand(size.batch, 3, size.image_size, size.image_size, device=device)
    labels = torch.rand(size.batch, 1000, device=device).softmax(1)
    keys = [ViewKey(0, position, position, 0) for position in range(size.batch)]
    teaches_in: Precision = "fp16" if device.type == "cuda" and precision != "fp32" else "fp32"
    ours = Teacher(_teacher(size, device), size.image_size, precision=teaches_in).to(device)
    make_fast(ours, compiled=size.compile)
    config = partial(_config, size, precision)
    with tempfile.TemporaryDirectory() as folder:
        bank = _bank(Path(folder), ours, views)
        stock = _teacher(size, device)
        in_precision = partial(computing, device, precision)
        steps: dict[str, Callable[[], object]] = {
            "plain": partial(PlainStep(size.student, stock, _RATIO, in_precision), views, labels),
            "timm": partial(TimmStep(size, stock, device), views, labels),
            "timm, student alone": partial(TimmStep(size, None, device), views, labels),
            "student alone": partial(OurStep(config(Supervised()), NoTargets(), device), views, labels, keys),
            "ours, teacher": partial(
                OurStep(config(CSKD()), TeacherTargets(ours, "", CSKD()), device), views, labels, keys
            ),
            "ours, bank": partial(
                OurStep(config(CSKD()), BankTargets(bank, config(CSKD())), device), views, labels, keys
            ),
        }
        seconds = compare(steps, size.rounds, clock)
    return {
        "what": f"{size.student} with {size.teacher}, {size.image_size} px, batch {size.batch}, {precision}",
        "compiled": size.compile,
        "sides": table(seconds, "plain", size.batch),
        "bank_over_student_alone": _median_ratio(seconds, "ours, bank", "student alone"),
        "timm_over_ours_with_teacher": _median_ratio(seconds, "timm", "ours, teacher"),
        "timm_over_ours_student_alone": _median_ratio(seconds, "timm, student alone", "student alone"),
        "note": "plain and both of ours do CSKD; timm distils the global label alone, which is less work",
    }


def _median_ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    ratios = sorted(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
    return ratios[len(ratios) // 2]


def _teacher(size: StepSize, device: torch.device) -> Any:
    torch.manual_seed(1)
    return timm.create_model(size.teacher).to(device).eval().requires_grad_(False)


def _config(size: StepSize, precision: Literal["fp32", "bf16"], method: MethodConfig) -> PretrainConfig:
    return PretrainConfig(
        name="speed",
        method=method,
        student=StudentConfig(name=size.student, image_size=size.image_size),
        teacher=TeacherConfig(name=size.teacher, image_size=size.image_size),
        recipe=Recipe(precision=precision, batch_size=size.batch, augment=AugmentConfig(mix_probability=0.0)),
        run=RunConfig(compile="all" if size.compile else "none"),
    )


def _bank(folder: Path, teacher: Teacher, views: Tensor) -> Bank:
    """Write a bank of the very views, so that the look-up from disk is timed too."""
    dense = torch.cat([teacher(part).dense for part in torch.split(views, 64)]).float()
    manifest = BankManifest(
        views={},
        teacher={"name": "random weights"},
        precision="fp32",
        num_classes=dense.shape[1],
        grid=(dense.shape[2], dense.shape[3]),
        epochs=300,
        views_per_epoch=len(views),
        views_per_shard=len(views),
        versions={},
    )
    begin_bank(folder, manifest)
    bank = Bank(folder)
    envelope = upper_envelope(dense, dense.flatten(2).mean(2), bank.ladder)
    write_shard(shard_path(folder, 0, 0), manifest.fingerprint(), 0, 0, pack(envelope))
    return bank

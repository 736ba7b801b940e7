"""Part `step`: our training step from a bank and with a teacher, beside plain, timm's, and the student alone.

Every side gets the same views in memory, already mixed: making views is part `data`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.task import ClassificationTask, TokenDistillationTask, TrainingTask
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from cskd_bench.bank.envelope import upper_envelope
from cskd_bench.bank.pack import pack, soft_targets
from cskd_bench.bank.shard import write_shard
from cskd_bench.bank.store import SOFT_CLASSES, Bank, BankManifest, begin_bank, shard_path
from cskd_bench.bank.targets import BankTargets
from cskd_bench.compilation import compile_fixed
from cskd_bench.config import (
    CSKD,
    AugmentConfig,
    MethodConfig,
    MethodSettings,
    Precision,
    PretrainConfig,
    Recipe,
    RunConfig,
    StudentConfig,
    Supervised,
    TeacherConfig,
)
from cskd_bench.data.keys import ViewKey, ViewKeys
from cskd_bench.data.mixing import resize_view
from cskd_bench.device import computing
from cskd_bench.engine.average import WeightAverage
from cskd_bench.engine.finite import Advice, FiniteWatch
from cskd_bench.engine.optim import build_optimizer, set_learning_rate
from cskd_bench.engine.projected import build_projector, with_projector
from cskd_bench.engine.targets import NoTargets, TargetProvider, TeacherTargets
from cskd_bench.methods import loss_parts
from cskd_bench.models.labeller import make_fast
from cskd_bench.models.students import choose_attention, initial_student
from cskd_bench.models.teachers import Teacher
from cskd_bench.speed.measure import Clock, compare, table
from cskd_bench.speed.plain import PlainStep

_COMPILED = ", compiled"
RATIO = 0.5  # of an epoch in the middle of the run: 1 - 150/300


@dataclass(frozen=True)
class StepSize:
    """What is trained on how many views, and how; `compile` adds each side but plain compiled."""

    student: str = "deit_tiny_patch16_224"
    teacher: str = "regnety_160"
    batch: int = 8
    image_size: int = 224
    rounds: int = 9
    compile: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"


class OurStep:
    """The step of the training loop (engine/training.py), with its own student, projector, optimiser and EMA."""

    def __init__(self, config: PretrainConfig, targets: TargetProvider, device: torch.device) -> None:
        self._config = config
        self._targets = targets
        self._device = device
        self._student = initial_student(config).to(device).train()
        choose_attention(self._student, device, config.recipe.precision)
        projector = build_projector(config.method, self._student, targets.widths, config.seed)
        module: Any = compile_fixed(self._student) if config.run.compile == "all" else self._student
        self._module: Any = with_projector(self._student, module, projector, config.method)
        self._optimizer = build_optimizer(self._student, config.recipe.optim, projector)
        self._ema = WeightAverage(self._student, config.recipe.ema_decay)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        advice = Advice(config.recipe.precision, config.teacher.precision)
        self._watch = FiniteWatch(self._optimizer, scaler, list(self._module.parameters()), advice, device)

    def __call__(self, views: Tensor, labels_BK: Tensor, keys: ViewKeys) -> None:
        """Take one step."""
        config = self._config
        set_learning_rate(self._optimizer, config.recipe.optim.lr)
        targets = self._targets(views, self._targets.look_up(keys, RATIO), RATIO)
        with computing(self._device, config.recipe.precision):
            output = self._module(resize_view(views, config.student.image_size), self._targets.grid)
        loss = loss_parts(config.method, output.in_fp32(), targets, labels_BK)["total"]
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
    views, labels, keys = random_batch(size, device)
    eager = fast_teacher(replace(size, compile=False), device)
    with tempfile.TemporaryDirectory() as folder:
        bank = bank_of_views(Path(folder), dense_responses(eager, views), CSKD())
        stock = random_teacher(size, device)
        plain = PlainStep(size.student, stock, RATIO, partial(computing, device, precision))
        steps: dict[str, Callable[[], object]] = {"plain": partial(plain, views, labels)}
        for one in (replace(size, compile=False), *([size] if size.compile else [])):
            mark = _COMPILED if one.compile else ""
            config, teacher = partial(step_config, one), fast_teacher(one, device)
            taught, looked_up = TeacherTargets(teacher, "", CSKD()), BankTargets(bank, config(CSKD()))
            theirs = {"timm": TimmStep(one, stock, device), "timm, student alone": TimmStep(one, None, device)}
            our = {
                "student alone": OurStep(config(Supervised()), NoTargets(), device),
                "ours, teacher": OurStep(config(CSKD()), taught, device),
                "ours, bank": OurStep(config(CSKD()), looked_up, device),
            }
            steps |= {name + mark: partial(step, views, labels) for name, step in theirs.items()}
            steps |= {name + mark: partial(step, views, labels, keys) for name, step in our.items()}
        seconds = compare(steps, size.rounds, clock)
    return {
        "what": f"{size.student} with {size.teacher}, {size.image_size} px, batch {size.batch}, {precision}",
        "compiled": size.compile,
        "sides": table(seconds, "plain", size.batch),
        **_ratios(seconds, ""),
        **({"with_compile": _ratios(seconds, _COMPILED)} if size.compile else {}),
        "note": "plain and both of ours do CSKD; timm distils the global label alone, which is less work",
    }


def _ratios(seconds: dict[str, list[float]], mark: str) -> dict[str, float]:
    """Return how the sides stand to each other, all eager or all compiled: medians over rounds."""
    pairs = {
        "bank_over_student_alone": ("ours, bank", "student alone"),
        "timm_over_ours_with_teacher": ("timm", "ours, teacher"),
        "timm_over_ours_student_alone": ("timm, student alone", "student alone"),
    }
    return {name: median_ratio(seconds, one + mark, other + mark) for name, (one, other) in pairs.items()}


def random_batch(size: StepSize, device: torch.device) -> tuple[Tensor, Tensor, ViewKeys]:
    """Return mixed views (B, 3, S, S), labels (B, 1000) and keys of a bank's first views."""
    torch.manual_seed(0)
    views = torch.rand(size.batch, 3, size.image_size, size.image_size, device=device)
    labels = torch.rand(size.batch, 1000, device=device).softmax(1)
    keys = [ViewKey(0, position, position, 0) for position in range(size.batch)]
    return views, labels, ViewKeys.of(keys)


def fast_teacher(size: StepSize, device: torch.device) -> Teacher:
    """Build the teacher as a run has it: norms folded, in half precision beside a student in it on a GPU."""
    teaches_in: Precision = "fp16" if device.type == "cuda" and size.precision != "fp32" else "fp32"
    teacher = Teacher(random_teacher(size, device), size.image_size, precision=teaches_in).to(device)
    make_fast(teacher, compiled=size.compile)
    return teacher


def median_ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median over rounds of one side's time over another's."""
    ratios = sorted(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
    return ratios[len(ratios) // 2]


def random_teacher(size: StepSize, device: torch.device) -> Any:
    """Build the teacher with random weights."""
    torch.manual_seed(1)
    return timm.create_model(size.teacher).to(device).eval().requires_grad_(False)


def step_config(size: StepSize, method: MethodConfig) -> PretrainConfig:
    """Return the run whose step is taken."""
    return PretrainConfig(
        name="speed",
        method=method,
        student=StudentConfig(name=size.student, image_size=size.image_size),
        teacher=TeacherConfig(name=size.teacher, image_size=size.image_size),
        recipe=Recipe(precision=size.precision, batch_size=size.batch, augment=AugmentConfig(mix_probability=0.0)),
        run=RunConfig(compile="all" if size.compile else "none"),
    )


def dense_responses(teacher: Teacher, views: Tensor) -> Tensor:
    """Return the teacher's dense responses (B, K, h, w), in fp32."""
    return torch.cat([teacher(part).dense for part in torch.split(views, 64)]).float()


def bank_of_views(folder: Path, dense: Tensor, method: MethodSettings) -> Bank:
    """Write a bank of the very views with the labels that a method asks for, so that the look-up is timed too."""
    soft = min(SOFT_CLASSES, dense.shape[1]) if method.labels == "soft" else 0
    manifest = BankManifest(
        views={},
        teacher={"name": "random weights"},
        precision="fp32",
        num_classes=dense.shape[1],
        grid=(dense.shape[2], dense.shape[3]),
        epochs=300,
        views_per_epoch=len(dense),
        views_per_shard=len(dense),
        soft_classes=soft,
        soft_temperature=method.soft_temperature,
        versions={},
    )
    begin_bank(folder, manifest)
    bank = Bank(folder)
    global_ = dense.flatten(2).mean(2)
    labels = soft_targets(global_, soft, method.soft_temperature) if soft else None
    packed = pack(upper_envelope(dense, global_, bank.ladder), labels)
    write_shard(shard_path(folder, 0, 0), manifest.fingerprint(), 0, 0, packed)
    return bank

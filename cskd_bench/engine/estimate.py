"""What a pretraining run will take, before it starts: steps, FLOPs, memory and disk, without weights."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cskd_bench.compilation import describe_compile
from cskd_bench.config import PretrainConfig
from cskd_bench.data.manifests import manifest_for_folder
from cskd_bench.data.open import open_source
from cskd_bench.data.prefetch import batches_ahead
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.device import computing, default_device
from cskd_bench.engine.flops import student_flops
from cskd_bench.engine.optim import build_optimizer
from cskd_bench.engine.projected import build_projector, with_projector
from cskd_bench.engine.teacher_size import FLOAT, TeacherSize
from cskd_bench.errors import UserError
from cskd_bench.methods import loss_parts, objective_of
from cskd_bench.models.students import build_student
from cskd_bench.outputs import Targets, TeacherWidths

SUSTAINED: Final = 100e12  # FLOP/s: a round figure to scale from, not a measurement
METHOD: Final = (
    "FLOPs: torch's counter, 2 per multiply-add, on images without data (backward included for the student). "
    "Memory: weights, gradients, moments and EMA by their sizes; activations are what autograd keeps of two and of "
    "three images on the CPU under this precision, extended to a GPU's micro-batch; the teacher adds its weights and "
    "its largest layer. Left out: the allocator's and cuDNN's workspace and the CUDA context."
)


@dataclass(frozen=True)
class Estimate:
    """The size of a run; FLOPs are for one view, bytes for the whole run or, in `memory`, for one GPU."""

    name: str
    images: int
    images_from: str
    steps_per_epoch: int
    epochs: int
    batch_size: int
    accumulate: int
    student_parameters: int
    teacher_parameters: int
    student_forward_flops: int
    student_step_flops: int  # forward and backward
    batch_flops: int  # of a micro-batch, whatever its size: a projection that is made anew in each
    teacher_flops: int
    optimizer_moments: int  # tensors of the weights' size that the optimiser keeps
    ema: bool
    activation_bytes_fixed: int  # weights cast to the run's precision
    activation_bytes_per_view: int
    teacher_bytes_per_view: int
    view_bytes: int
    keep: int
    keep_every: int | None
    workers: int
    prefetch_memory: int
    compiled: str  # on the device at hand

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def views(self) -> int:
        """Views that student and teacher see in the whole run."""
        return self.steps * self.batch_size

    @property
    def total_flops(self) -> int:
        """FLOPs of the whole run, evaluation left out."""
        batches = self.steps * self.accumulate
        return self.views * (self.student_step_flops + self.teacher_flops) + batches * self.batch_flops

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of the whole run where a GPU sustains SUSTAINED FLOP/s; divide by what yours does."""
        return self.total_flops / SUSTAINED / 3600

    def memory(self, gpus: int) -> dict[str, int]:
        """Return bytes on each of `gpus` GPUs, by purpose; their sum is the estimated peak."""
        micro_batch = self.batch_size / (gpus * self.accumulate)
        weights = self.student_parameters * FLOAT
        return {
            "student's weights": weights,
            "gradients": weights * (2 if gpus > 1 else 1),  # DDP reduces them in buckets of its own
            "optimiser": weights * self.optimizer_moments,
            "EMA": weights if self.ema else 0,
            "student's activations": int(self.activation_bytes_fixed + self.activation_bytes_per_view * micro_batch),
            "teacher": int(self.teacher_parameters * FLOAT + self.teacher_bytes_per_view * micro_batch),
            "views": int(3 * self.view_bytes * micro_batch),  # as made, their mixing partners, normalised
        }

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint: weights, EMA, the optimiser's moments."""
        return self.student_parameters * FLOAT * (1 + self.ema + self.optimizer_moments)

    @property
    def disk_bytes(self) -> int:
        """Most bytes that the run folder holds at once: the kept checkpoints, the one being written, all milestones."""
        return (self.keep + 1) * self.checkpoint_bytes + self.milestones * self.milestone_bytes

    @property
    def milestones(self) -> int:
        """Epochs whose weights stay for good; the last one's are the run's own."""
        return (self.epochs - 1) // self.keep_every if self.keep_every else 0

    @property
    def milestone_bytes(self) -> int:
        """Bytes of one milestone: weights and EMA."""
        return self.student_parameters * FLOAT * (1 + self.ema)

    def batches_ahead(self, gpus: int) -> int:
        """Return how many batches each worker of a rank holds ready where `gpus` ranks run."""
        views = self.batch_size // (gpus * self.accumulate)
        return batches_ahead(self.prefetch_memory, self.workers, views * self.view_bytes // FLOAT)


def estimate(config: PretrainConfig) -> Estimate:
    """Size up a run. UserError where the number of training images cannot be known or a model does not run."""
    images, source = training_images(config)
    plan = ViewPlan.of(config.recipe, images, config.seed)
    method = objective_of(config.method)
    student = build_student(config.student, config.data.num_classes, method.heads)
    teacher = TeacherSize(config.teacher, config.recipe.precision, config.method) if method.needs_teacher else None
    grid = teacher.grid if teacher is not None and config.method.fusion else None
    projector = build_projector(config.method, student, teacher.widths if teacher else TeacherWidths(), config.seed)
    trained = with_projector(student, student, projector, config.method)
    flops = student_flops(copy.deepcopy(trained).to("meta"), config.student.image_size, grid)
    two, three = (_kept_for_backward(trained, config, grid, teacher, views) for views in (2, 3))
    optimizer = build_optimizer(student, config.recipe.optim, projector)
    return Estimate(
        name=config.name,
        images=images,
        images_from=source,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=config.recipe.epochs,
        batch_size=config.recipe.batch_size,
        accumulate=config.run.accumulate,
        student_parameters=_count(student),
        teacher_parameters=teacher.parameters if teacher else 0,
        student_forward_flops=flops.forward,
        student_step_flops=flops.step,
        batch_flops=flops.batch,
        teacher_flops=teacher.flops if teacher else 0,
        optimizer_moments=2 if isinstance(optimizer, torch.optim.AdamW) else 1,
        ema=config.recipe.ema_decay > 0,
        activation_bytes_fixed=max(0, 3 * two - 2 * three),
        activation_bytes_per_view=three - two,
        teacher_bytes_per_view=teacher.largest_layer_bytes if teacher else 0,
        view_bytes=3 * config.view_size**2 * FLOAT,
        keep=config.run.keep,
        keep_every=config.run.keep_every,
        workers=config.run.workers,
        prefetch_memory=config.run.prefetch_memory,
        compiled=describe_compile(config.run, default_device()),
    )


def training_images(config: PretrainConfig) -> tuple[int, str]:
    """Return the number of training images and where it is known from: a manifest, else the data itself."""
    manifest = manifest_for_folder(config.data.root)
    parts = config.data.train.split("+")
    known = manifest is not None and manifest.classes == config.data.num_classes
    if manifest is not None and known and all(part in manifest.splits for part in parts):
        return sum(manifest.splits[part] for part in parts), f"the manifest of {manifest.title}"
    try:
        return len(open_source(config.data, config.data.train)), "the data"
    except UserError as error:
        raise UserError(f"the number of training images is known from the data alone: {error}") from error


def _kept_for_backward(
    student: nn.Module, config: PretrainConfig, grid: tuple[int, int] | None, teacher: TeacherSize | None, views: int
) -> int:
    """Return the bytes that autograd keeps of a forward pass and its losses, beyond the weights themselves."""
    cpu, method = torch.device("cpu"), objective_of(config.method)
    size, classes = config.student.image_size, config.data.num_classes

    def compute() -> None:
        with computing(cpu, config.recipe.precision):
            output = student.train()(torch.rand(views, 3, size, size), grid)
        targets = Targets()
        if teacher is not None:
            targets = method.targets(config.method, teacher.respond(views, classes, grid), 0.5)
        loss_parts(config.method, output, targets, torch.full((views, classes), 1 / classes))

    return kept_for_backward(student, compute)


def kept_for_backward(student: nn.Module, compute: Callable[[], None]) -> int:
    """Return the bytes that autograd keeps of what `compute` does, beyond a student's weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*student.parameters(), *student.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor  # held, so that no later tensor takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def show(size: Estimate, console: Console) -> None:
    """Print an estimate as two tables and how it was made."""
    if size.batch_size % size.accumulate:
        raise UserError(f"run.accumulate {size.accumulate} does not divide recipe.batch_size {size.batch_size}")
    run = Table(title=f"{size.name}: what this run takes", title_justify="left", show_header=False)
    run.add_column()
    run.add_column(justify="right")
    run.add_row("training images", f"{size.images:,} (from {size.images_from})")
    run.add_row(
        "steps", f"{size.steps:,} ({size.epochs} epochs of {size.steps_per_epoch:,}, batch {size.batch_size:,})"
    )
    run.add_row("views", f"{size.views:,}")
    run.add_row("student", f"{size.student_parameters / 1e6:.2f} M parameters")
    run.add_row("  FLOPs an image, forward", _giga(size.student_forward_flops))
    run.add_row("  FLOPs an image, forward + backward", _giga(size.student_step_flops))
    if size.batch_flops:
        run.add_row("  FLOPs a batch of any size", _giga(size.batch_flops))
    if size.teacher_parameters:
        run.add_row("teacher", f"{size.teacher_parameters / 1e6:.2f} M parameters")
        run.add_row("  FLOPs an image, forward", _giga(size.teacher_flops))
        share = size.teacher_flops / (size.teacher_flops + size.student_step_flops)
        run.add_row("  share of a step's FLOPs", f"{100 * share:.0f} %")
    run.add_row("FLOPs of the run", f"{size.total_flops:.2e}")
    run.add_row("GPU-hours at a sustained 100 TFLOP/s", f"{size.gpu_hours:,.3g} (computed, not measured)")
    run.add_row("compiled", size.compiled)
    counts = [gpus for gpus in (1, 2, 4, 8) if size.batch_size % (gpus * size.accumulate) == 0]
    for row in _disk_and_loaders(size, counts):
        run.add_row(*row)
    console.print(run)

    parts = {gpus: size.memory(gpus) for gpus in counts}
    memory = Table(title="Memory of each GPU (estimate)", title_justify="left")
    memory.add_column("")
    for gpus in counts:
        memory.add_column(f"{gpus} GPU{'s' if gpus > 1 else ''}", justify="right")
    for name in parts[counts[0]]:
        memory.add_row(name, *(_bytes(parts[gpus][name]) for gpus in counts))
    memory.add_section()
    memory.add_row("together", *(_bytes(sum(parts[gpus].values())) for gpus in counts), style="bold")
    console.print(memory)
    console.print(METHOD, style="dim", highlight=False)


def _disk_and_loaders(size: Estimate, counts: list[int]) -> Iterator[tuple[str, str]]:
    """Yield rows on what a run writes, and on what its loader processes hold on so many GPUs."""
    yield "disk", _bytes(size.disk_bytes)
    yield "  checkpoints, one being written", f"{size.keep} + 1 x {_bytes(size.checkpoint_bytes)}"
    if size.milestones:
        yield "  milestones", f"{size.milestones} x {_bytes(size.milestone_bytes)}"
    if size.workers:
        ready = " / ".join(str(size.batches_ahead(gpus)) for gpus in counts)
        yield f"batches ready a worker, on {' / '.join(map(str, counts))} GPUs", ready


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.2f} G"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"

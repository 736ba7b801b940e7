"""What a fine-tuning will take, before it starts: steps, and an estimate of a GPU's memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from cskd_bench.config import Supervised
from cskd_bench.data.open import open_split
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.device import computing, gpu_memory
from cskd_bench.engine.estimate import kept_for_backward
from cskd_bench.engine.optim import build_optimizer
from cskd_bench.engine.teacher_size import FLOAT, TeacherSize
from cskd_bench.task import FinetuneConfig, TaskSpec
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.finetune import Tuned, chosen_images, new_student
from cskd_bench.transfer.learning_rate import for_trial, hold_out

CARD: Final = 80e9  # bytes of the GPU that is spoken of where none is here
USABLE: Final = 0.9  # of its memory: the rest is the allocator's, cuDNN's and the CUDA context's


def size_of_finetuning(spec: TaskSpec, seed: int, work: Path) -> tuple[int, int]:
    """Return (steps, views), those of a grid's trials included."""
    recipe, labels = spec.finetune, open_split(spec.data, spec.data.train).labels
    chosen = chosen_images(spec, labels, seed)
    plans = [ViewPlan.of(recipe, len(chosen), seed)]
    if recipe.lr_grid:
        seen, _ = hold_out(labels, chosen, recipe, seed)
        plans += [ViewPlan.of(for_trial(recipe, rate), len(seen), seed) for rate in recipe.lr_grid]
    steps = sum(plan.steps for plan in plans)
    return steps, steps * recipe.batch_size


@dataclass(frozen=True)
class FinetuneMemory:
    """An estimate of a GPU's memory in bytes: `state` is weights, the teacher's too, gradients, moments and EMA."""

    batch_size: int
    group: int  # views that a micro-batch must hold whole
    state: int
    fixed: int  # weights cast to the run's precision
    per_view: int  # activations and the view itself

    def at(self, accumulate: int, ranks: int = 1) -> int:
        """Return the bytes on each GPU."""
        return self.state + self.activations(accumulate, ranks)

    def activations(self, accumulate: int, ranks: int = 1) -> int:
        """Return the bytes that a micro-batch adds to the state."""
        return self.fixed + self.per_view * self.batch_size // (ranks * accumulate)

    def fitting(self, card: float, ranks: int = 1) -> int | None:
        """Return the least `run.accumulate` under which a card is enough; None where no micro-batch fits."""
        whole = self.batch_size // self.group
        possible = [parts for parts in range(1, whole + 1) if self.batch_size % (parts * ranks * self.group) == 0]
        return next((parts for parts in possible if self.at(parts, ranks) <= USABLE * card), None)


def estimate_memory(cell: ImageCell) -> FinetuneMemory:
    """Size up a fine-tuning by what autograd keeps of one view and of two, on the CPU in the run's precision.

    A teacher adds its weights and, for each view, its largest layer.
    """
    recipe: FinetuneConfig = cell.spec.finetune
    student = new_student(cell, recipe).train()
    one, two = (_kept(student, cell, views) for views in (1, 2))
    weights = FLOAT * sum(parameter.numel() for parameter in student.parameters())
    moments = 2 if isinstance(build_optimizer(student, recipe.optim), torch.optim.AdamW) else 1
    view = 3 * FLOAT * recipe.view_size(cell.model.image_size) ** 2
    method = recipe.method or Supervised()
    teacher = TeacherSize(recipe.teacher, recipe.precision, method) if recipe.teacher else None
    return FinetuneMemory(
        batch_size=recipe.batch_size,
        group=recipe.augment.mix_group if recipe.augment.mixes else 1,
        state=weights * (2 + moments + (recipe.ema_decay > 0)) + (FLOAT * teacher.parameters if teacher else 0),
        fixed=max(0, 2 * one - two),
        # as made, its mixing partner, normalised
        per_view=two - one + 3 * view + (teacher.largest_layer_bytes if teacher else 0),
    )


def _kept(student: Tuned, cell: ImageCell, views: int) -> int:
    size = cell.model.image_size

    def compute() -> None:
        with computing(torch.device("cpu"), cell.spec.finetune.precision):
            output = student(torch.rand(views, 3, size, size), cell.targets.grid)
        for logits in (output.class_logits, output.dist_logits, output.patch_logits):
            if logits is not None:
                logits.float().log_softmax(1).sum()

    return kept_for_backward(student, compute)


def describe_finetuning(cell: ImageCell) -> str:
    """Say steps, views, an estimate of memory, and the `run.accumulate` that fits this machine's GPU, or one of 80 GB.

    UserError where the images are not there.
    """
    spec, parts = cell.spec, cell.spec.run.accumulate
    steps, views = size_of_finetuning(spec, cell.seed, cell.work)
    memory, card = estimate_memory(cell), gpu_memory() or CARD
    method, teacher = spec.finetune.method, cell.targets.teacher
    taught = f", method {method.kind} from {teacher}" if method else ""
    fitting = memory.fitting(card)
    advice = f"run.accumulate={fitting} fits" if fitting else "no run.accumulate fits"
    micro = spec.finetune.batch_size // parts
    return (
        f"{steps:,} steps, {views:,} views, {spec.finetune.precision}{taught}; "
        f"estimated memory of one GPU, not measured: "
        f"{memory.state / 1e9:.1f} GB of weights and optimiser, {memory.activations(parts) / 1e9:.1f} GB for a "
        f"micro-batch of {micro:,} views; {advice} a GPU of {card / 1e9:.0f} GB"
    )

"""Fine-tuning: every weight trained on the task through the same loop as pretraining."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cskd_bench.cells.cell import Outcome
from cskd_bench.config import RunConfig, Supervised
from cskd_bench.data.open import open_split
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.data.sources import SubsetSource
from cskd_bench.data.views import EvalView
from cskd_bench.engine.evaluate import evaluate
from cskd_bench.engine.job import Job
from cskd_bench.engine.targets import NoTargets
from cskd_bench.engine.training import fit
from cskd_bench.models.students import Student
from cskd_bench.outputs import StudentOutput
from cskd_bench.task import FinetuneConfig
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.kept import keep_student
from cskd_bench.transfer.subsets import low_label_indices


class AveragedHeads(nn.Module):
    """A student whose inference rule is also its training output: all its heads learn the task's labels."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    @property
    def model(self) -> Any:
        """The timm model, whose layers parameter groups follow."""
        return self.student.model

    def forward(self, views: Tensor, grid: tuple[int, int] | None = None) -> StudentOutput:
        """Return the averaged logits as class logits."""
        return StudentOutput(self.student.predict(views))

    def predict(self, views: Tensor) -> Tensor:
        """Return (B, K) logits."""
        return self.student.predict(views)


def run(cell: ImageCell) -> Outcome:
    """Fine-tune on the task's share of train; the student is kept where the cell says so."""
    fraction, labels = cell.spec.finetune.train_fraction, cell.train.labels
    chosen = np.arange(len(labels)) if fraction == 1 else low_label_indices(labels, fraction, cell.seed)
    outcome, student = fit_student(cell, chosen, cell.folder, cell.spec.finetune)
    if cell.keep_weights:
        cell.ranks.on_main(lambda: keep_student(cell, student))
    return outcome


def tune(cell: ImageCell, chosen: np.ndarray, folder: Path, recipe: FinetuneConfig) -> Outcome:
    """Fine-tune and score as `fit_student` does; the student is forgotten."""
    return fit_student(cell, chosen, folder, recipe)[0]


def fit_student(cell: ImageCell, chosen: np.ndarray, folder: Path, recipe: FinetuneConfig) -> tuple[Outcome, Student]:
    """Fine-tune from the checkpoint with a new head on the chosen images, resuming from `folder`; score test once.

    Returns the student whose score that is: of the averaged weights, where the recipe averages.
    """
    student = copy.deepcopy(cell.model.student)
    train = SubsetSource(cell.train, chosen)
    torch.manual_seed(integer_seed(cell.seed, Stream.MODEL))
    student.reset_classifier(cell.spec.data.num_classes)
    if recipe.distillation_token == "drop":
        student.drop_distillation_head()
    job = Job(
        title=f"{cell.spec.name} finetune {cell.model.checkpoint.run} s{cell.seed}",
        student=AveragedHeads(student),
        method=Supervised(),
        targets=NoTargets(),
        train=train,
        val=open_split(cell.spec.data, cell.spec.data.val) if cell.spec.data.val else None,
        data=cell.spec.data,
        recipe=recipe,
        run=RunConfig(workers=cell.workers),
        view_size=recipe.augment.view_size or cell.model.image_size,
        image_size=cell.model.image_size,
        seed=cell.seed,
        folder=folder,
        identity={
            "task": cell.spec.fingerprint(),
            **cell.model.weights_identity(),
            "seed": cell.seed,
            "data": f"{train.identity} {cell.test.identity}",
        },
    )
    result = fit(job, cell.ranks, cell.stop)
    tuned = result.ema if result.ema is not None else result.student
    predictions = evaluate(
        tuned.eval().predict,
        cell.test,
        EvalView(cell.model.image_size, cell.spec.data.eval_crop, recipe.augment.interpolation),
        cell.ranks,
        batch_size=cell.batch_size,
        workers=cell.workers,
        stop=lambda: cell.stop.requested,
    )
    outcome = Outcome(
        predictions,
        curve=result.curve,
        seconds=result.seconds,
        images_per_second=result.images_per_second,
        started=result.started,
        resumptions=result.resumptions,
    )
    return outcome, tuned.student

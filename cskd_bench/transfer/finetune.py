"""Fine-tuning: every weight trained on the task through the same loop as pretraining."""

import copy
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from cskd_bench.cells.cell import Outcome
from cskd_bench.config import Supervised
from cskd_bench.data.open import open_split
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.data.sources import Source, SubsetSource
from cskd_bench.data.views import EvalView
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.engine.job import Fit, Job
from cskd_bench.engine.training import fit
from cskd_bench.models.hub import hash_state
from cskd_bench.models.stochastic_depth import set_drop_path
from cskd_bench.models.students import Student
from cskd_bench.outputs import StudentOutput
from cskd_bench.schema import fingerprint
from cskd_bench.task import FinetuneConfig, TaskSpec
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.kept import keep_student
from cskd_bench.transfer.learning_rate import RateChoice, Trial, at_rate, choose_rate, for_trial, hold_out
from cskd_bench.transfer.scan import scan_split
from cskd_bench.transfer.scoring import first_classes, to_predictions
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


Tuned: TypeAlias = AveragedHeads | Student  # what is trained: without a method, and with one


def run(cell: ImageCell) -> Outcome:
    """Fine-tune on the task's share of train; the student is kept where the cell says so."""
    chosen = chosen_images(cell.spec, cell.train.labels, cell.seed)
    outcome, student = fit_student(cell, chosen, cell.folder, cell.spec.finetune)
    if cell.keep_weights:
        cell.ranks.on_main(lambda: keep_student(cell, student))
    return outcome


def chosen_images(spec: TaskSpec, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the indices of the task's share of train."""
    fraction = spec.finetune.train_fraction
    return np.arange(len(labels)) if fraction == 1 else low_label_indices(labels, fraction, seed)


def tune(cell: ImageCell, chosen: np.ndarray, folder: Path, recipe: FinetuneConfig) -> Outcome:
    """Fine-tune and score as `fit_student` does; the student is forgotten."""
    return fit_student(cell, chosen, folder, recipe)[0]


def fit_student(cell: ImageCell, chosen: np.ndarray, folder: Path, recipe: FinetuneConfig) -> tuple[Outcome, Student]:
    """Fine-tune from the checkpoint with a new head on the chosen images, resuming from `folder`; score test once.

    With a grid of learning rates one is chosen on a part of these images first. Returns the student whose score that
    is: of the averaged weights, where the recipe averages.
    """
    choice = _choose(cell, chosen, folder, recipe) if recipe.lr_grid else None
    recipe = recipe if choice is None else at_rate(recipe, choice.rate)
    val = open_split(cell.spec.data, cell.spec.data.val) if cell.spec.data.val else None
    tuned, result = _train(cell, SubsetSource(cell.train, chosen), val, folder, recipe)
    predictions = _score(cell, tuned, cell.test, recipe, folder)
    trials = choice.trials if choice else []
    outcome = Outcome(
        predictions,
        metrics=choice.metrics if choice else {},
        curve=result.curve,
        seconds=result.seconds + result.evaluation_seconds + sum(trial.seconds for trial in trials),
        evaluation_seconds=result.evaluation_seconds,
        images_per_second=result.images_per_second,
        started=min([result.started, *(trial.started for trial in trials)]),
        resumptions=max([result.resumptions, *(trial.resumptions for trial in trials)]),
        labels_from=cell.targets.labels_from,
        labelling_seconds=cell.targets.labelling_seconds,
        tf32=recipe.teacher is not None and recipe.teacher.precision == "tf32",
        note="; ".join(filter(None, (choice.note if choice else "", cell.targets.note))),
    )
    return outcome, tuned.student if isinstance(tuned, AveragedHeads) else tuned


def new_student(cell: ImageCell, recipe: FinetuneConfig) -> Tuned:
    """Return the checkpoint's student as it is before the first step: a new head, drawn by the cell's seed.

    Under a method it answers by that method's heads, which are those that learn.
    """
    student = copy.deepcopy(cell.model.student)
    torch.manual_seed(integer_seed(cell.seed, Stream.MODEL))
    student.reset_classifier(cell.spec.data.num_classes)
    if recipe.method is not None:
        student.take_heads(recipe.method.heads)
    elif recipe.distillation_token == "drop" or student.heads == "class":  # its new head would learn nothing
        student.drop_distillation_head()
    if recipe.drop_path is not None:
        set_drop_path(student.model, recipe.drop_path)
    return AveragedHeads(student) if recipe.method is None else student


def _choose(cell: ImageCell, chosen: np.ndarray, folder: Path, recipe: FinetuneConfig) -> RateChoice:
    """Train at each rate of the grid on the larger part of the chosen images and score it on the others."""
    seen, unseen = hold_out(cell.train.labels, chosen, recipe, cell.seed)
    train, held = SubsetSource(cell.train, seen), SubsetSource(cell.train, unseen)
    images = fingerprint({"train": train.identity, "held": held.identity})

    def attempt(rate: float, own: Path) -> Trial:
        trial = for_trial(recipe, rate)
        tuned, result = _train(cell, train, None, own, trial, f" lr {rate}")
        score = _score(cell, tuned, held, trial, own).metrics()[cell.spec.metric]
        return Trial(score, result.seconds, result.started, result.resumptions)

    return choose_rate(cell, recipe, folder / f"validation-{images}", len(unseen), attempt)


def _train(
    cell: ImageCell, train: Source, val: Source | None, folder: Path, recipe: FinetuneConfig, said: str = ""
) -> tuple[Tuned, Fit]:
    """Train to the end of the recipe, or on from what `folder` holds; return the student that is to be scored."""
    chosen = {"lr": recipe.optim.lr, "epochs": recipe.epochs} if cell.spec.finetune.lr_grid else {}
    job = Job(
        title=f"{cell.spec.name} finetune {cell.model.checkpoint.run} s{cell.seed}{said}",
        student=new_student(cell, recipe),
        method=recipe.method or Supervised(),
        targets=cell.targets,
        train=train,
        val=val,
        data=cell.spec.data,
        recipe=recipe,
        run=cell.spec.run.model_copy(update={"workers": cell.workers}),
        view_size=recipe.view_size(cell.model.image_size),
        image_size=cell.model.image_size,
        seed=cell.seed,
        folder=folder,
        identity={
            "task": cell.spec.fingerprint(),
            **cell.model.weights_identity(),
            "seed": cell.seed,
            "data": f"{train.identity} {cell.test.identity}",
            **chosen,
        },
        teacher_precision=recipe.teacher.precision if recipe.teacher else "fp32",
    )
    result = fit(job, cell.ranks, cell.stop)
    cell.stop.kept = True  # its last checkpoint
    tuned: Tuned = result.ema if result.ema is not None else result.student
    return tuned.eval(), result


def _score(cell: ImageCell, tuned: Tuned, source: Source, recipe: FinetuneConfig, folder: Path) -> Predictions:
    """Predict every image of a split once; what a killed process had predicted is kept in `folder`."""
    rows = scan_split(
        cell,
        source,
        EvalView(cell.model.image_size, cell.spec.data.eval_crop, recipe.augment.interpolation),
        lambda views: first_classes(tuned.predict(views)),
        folder=folder / "predictions",
        key={"tuned": hash_state(tuned.state_dict())},
        what="predictions",
    )
    return to_predictions(source.labels, rows, cell.spec.data.num_classes)

"""The training loop, from top to bottom; pretraining and fine-tuning both run through it."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cskd_bench.config import DataConfig, MethodConfig, Recipe, RunConfig
from cskd_bench.data.engines import finished, worker_views
from cskd_bench.data.loader import Batch, ViewPlan, train_loader
from cskd_bench.data.mixing import resize_view
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions, evaluate
from cskd_bench.engine.logs import Bar, Meter, RunLog, progress_bar
from cskd_bench.engine.optim import build_optimizer, learning_rate, set_learning_rate, skip_update_if
from cskd_bench.engine.patches import patch_measures
from cskd_bench.engine.precision import autocast, slow_precision
from cskd_bench.engine.provenance import peak_memory
from cskd_bench.engine.state import Progress, Trained, resume, save, stop_signals
from cskd_bench.engine.targets import TargetProvider
from cskd_bench.errors import UserError
from cskd_bench.methods import METHODS, ratio_at
from cskd_bench.models.students import choose_attention
from cskd_bench.outputs import StudentOutput, Targets


class Interrupted(Exception):
    """The run was asked to stop, wrote a checkpoint and can be started again."""


@dataclass(frozen=True)
class Job:
    """One training run, built: everything that the loop needs."""

    title: str
    student: Any  # module: (views, grid) -> StudentOutput, with predict(views) -> (B, K) logits
    method: MethodConfig
    targets: TargetProvider
    train: Source
    val: Source | None
    data: DataConfig
    recipe: Recipe
    run: RunConfig
    view_size: int
    image_size: int
    seed: int
    folder: Path
    identity: dict[str, Any]


@dataclass(frozen=True)
class Fit:
    """A finished run."""

    student: Any
    ema: Any | None
    curve: list[dict[str, float]]
    predictions: Predictions | None
    seconds: float
    images_per_second: float
    peak_memory_bytes: int


def fit(job: Job, ranks: Ranks) -> Fit:
    """Train to the end of the recipe, or on from the newest valid checkpoint in job.folder.

    Raises Interrupted after SIGTERM, SIGUSR1 or Ctrl-C (a checkpoint is written), and UserError for a
    changed recipe, a non-finite loss (before the update) or corrupt images beyond the policy.
    """
    recipe, run, device = job.recipe, job.run, ranks.device
    plan = ViewPlan.of(recipe, len(job.train), job.seed)
    _check_shares(recipe, run, ranks)
    student = job.student.to(device)
    choose_attention(student, device, recipe.precision)
    ema = ModelEmaV3(student, decay=recipe.ema_decay) if recipe.ema_decay > 0 else None
    optimizer = build_optimizer(student, recipe.optim)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16" and device.type == "cuda")
    trained = Trained(student, ema, optimizer, scaler)
    progress, notes = resume(job.folder, job.identity, trained, ranks)
    module: Any = torch.compile(student) if run.compile == "all" else student
    module = DistributedDataParallel(module) if ranks.world > 1 else module
    batches = iter(
        train_loader(
            worker_views(job.train, recipe.augment, job.view_size, job.seed, job.data),
            plan,
            first_step=progress.step,
            rank=ranks.rank,
            world=ranks.world,
            accumulate=run.accumulate,
            workers=run.workers,
        )
    )
    method, num_classes = METHODS[job.method.kind], job.data.num_classes
    bad = torch.zeros((), device=device)
    predictions = None
    log = RunLog(job.folder, progress.step) if ranks.is_main else None
    with (
        progress_bar(job.title, plan.steps, progress.step, ranks.is_main) as bar,
        stop_signals() as stop,
    ):
        if slow := slow_precision(device, recipe.precision):
            notes.append(f"{slow}; precision fp32, which is a recipe of its own, will be faster here")
        for note in notes:
            bar.say(f"{job.title}: {note}")
        while progress.step < plan.steps:
            began = time.perf_counter()
            step = progress.step
            epoch, within = divmod(step, plan.steps_per_epoch)
            ratio = ratio_at(job.method, epoch / recipe.epochs)
            rate = learning_rate(recipe.optim, step, plan.steps_per_epoch, plan.steps)
            set_learning_rate(optimizer, rate)
            _seed_step(integer_seed(job.seed, Stream.STEP, index=step, repeat=ranks.rank), device)
            log_now = (step + 1) % run.log_every == 0 or within + 1 == plan.steps_per_epoch
            module.train()
            for part in range(run.accumulate):
                batch = next(batches)
                _account_for_skipped(job, progress, batch, bar)
                views, labels = finished(batch, recipe.augment, num_classes, job.seed, device)
                targets = job.targets(views, batch.keys, ratio)
                last = part + 1 == run.accumulate
                with nullcontext() if last or ranks.world == 1 else module.no_sync():
                    with autocast(device, recipe.precision):
                        output = module(resize_view(views, job.image_size), job.targets.grid)
                    output = output.in_fp32()
                    parts = method.losses(job.method, output, targets, labels)
                    scaler.scale(parts["total"] / run.accumulate).backward()  # type: ignore[no-untyped-call]
                bad = torch.maximum(bad, 1 - _finite(parts["total"], targets).float())
                progress.window.add(parts | (_agreement(output, targets) if log_now else {}))
                progress.epoch.add(parts | (_agreement(output, targets) if log_now else {}))
            if recipe.optim.clip_grad is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(student.parameters(), recipe.optim.clip_grad)
            if not scaler.is_enabled():
                skip_update_if(optimizer, _anywhere(bad, ranks))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.update(student)
            progress.step += 1

            if log_now or device.type == "cpu":
                _refuse_non_finite(bad, ranks, plan, step, job)
            progress.seconds += time.perf_counter() - began
            images_per_second = progress.step * recipe.batch_size / max(progress.seconds, 1e-9)
            bar.advance(images_per_second, f"epoch {epoch + 1}/{recipe.epochs}")
            if log_now:
                means = progress.window.means(ranks)
                progress.window = Meter()
                if log is not None:
                    log.write(progress.step, {"lr": rate, "fusion_ratio": ratio, **means})
            if within + 1 == plan.steps_per_epoch:
                ranks.share_buffers(student, ema)
                scores, predictions = _scores(job, ranks, student, ema, epoch)
                entry = {"epoch": float(epoch + 1), "lr": rate, "fusion_ratio": ratio, **progress.epoch.means(ranks)}
                progress.curve.append(entry | scores)
                progress.epoch = Meter()
                if log is not None:
                    log.write(progress.step, scores)
                bar.say(_epoch_line(job, progress.curve[-1], images_per_second))
            stopping = stop.agreed(ranks, progress.step)
            due = within + 1 == plan.steps_per_epoch or (run.save_every and progress.step % run.save_every == 0)
            if due or stopping:
                _refuse_non_finite(bad, ranks, plan, step, job)
                save(job.folder, job.identity, progress, trained, ranks, run.keep)
            if stopping and progress.step < plan.steps:
                raise Interrupted(
                    f"stopped after step {progress.step} of {plan.steps}; the same command goes on from here"
                )
    if log is not None:
        log.close()
    if job.val is not None and predictions is None:
        predictions = _evaluate(job, ranks, student)
    rate_of_run = plan.steps * recipe.batch_size / max(progress.seconds, 1e-9)
    averaged = ema.module if ema is not None else None
    return Fit(student, averaged, progress.curve, predictions, progress.seconds, rate_of_run, peak_memory(device))


def _seed_step(seed: int, device: torch.device) -> None:
    """Seed the draws of dropout and stochastic depth, so that a step depends on nothing before it."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _check_shares(recipe: Recipe, run: RunConfig, ranks: Ranks) -> None:
    shares = ranks.world * run.accumulate
    group = recipe.augment.mix_group if recipe.augment.mixes else 1
    if recipe.batch_size % (shares * group):
        raise UserError(
            f"batch_size {recipe.batch_size} does not split into {ranks.world} ranks x {run.accumulate} "
            f"micro-batches of whole mixing groups of {group}; change run.accumulate, the ranks or augment.mix_group"
        )


def _scores(job: Job, ranks: Ranks, student: Any, ema: Any, epoch: int) -> tuple[dict[str, float], Predictions | None]:
    """Evaluate raw and averaged weights at the end of the epochs that ask for it."""
    due = (epoch + 1) % job.run.eval_every == 0 or epoch + 1 == job.recipe.epochs
    if job.val is None or not due:
        return {}, None
    predictions = _evaluate(job, ranks, student)
    scores = {"top1": predictions.top1}
    if ema is not None:
        scores["ema_top1"] = _evaluate(job, ranks, ema.module).top1
    return scores | patch_measures(student, job.val, _eval_view(job), ranks.device), predictions


def _evaluate(job: Job, ranks: Ranks, student: Any) -> Predictions:
    assert job.val is not None
    student.eval()
    return evaluate(
        student.predict,
        job.val,
        _eval_view(job),
        ranks,
        batch_size=job.run.eval_batch_size,
        workers=job.run.workers,
        precision=job.recipe.precision,
    )


def _eval_view(job: Job) -> EvalView:
    return EvalView(job.image_size, job.data.eval_crop, job.recipe.augment.interpolation)


def _agreement(output: StudentOutput, targets: Targets) -> dict[str, Tensor]:
    """Return the fraction of places whose patch label is the teacher's fused label."""
    if output.patch_logits is None or targets.spatial_target is None:
        return {}
    wanted = targets.spatial_target
    wanted = wanted.argmax(1) if wanted.is_floating_point() else wanted
    return {"spatial_agreement": (output.patch_logits.argmax(1) == wanted).float().mean()}


def _finite(loss: Tensor, targets: Targets) -> Tensor:
    """Return whether a loss is finite, and the teacher's responses: the largest of any is a label, of NaN as well."""
    finite = loss.detach().isfinite()
    return finite if targets.finite is None else finite & targets.finite


def _anywhere(bad: Tensor, ranks: Ranks) -> Tensor:
    """Return 1 where any rank's loss was not finite, so that all ranks skip the update together."""
    if ranks.world > 1:
        torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)
    return bad


def _refuse_non_finite(bad: Tensor, ranks: Ranks, plan: ViewPlan, step: int, job: Job) -> None:
    if bad.item() == 0:
        return
    images = sorted({key.index for key in plan.keys(step)})
    raise UserError(
        f"the loss is not finite at step {step + 1} or shortly before (epoch {step // plan.steps_per_epoch + 1}, "
        f"images {', '.join(map(str, images[:8]))}, ...); or the teacher's response to one is not; "
        "no update was made from it and no checkpoint written. "
        "Lower optim.lr, set optim.clip_grad, or use bf16 or fp32"
    )


def _account_for_skipped(job: Job, progress: Progress, batch: Batch, bar: Bar) -> None:
    for sentence in dict.fromkeys(batch.skipped):
        if sentence not in progress.skipped:  # an image counts once, however often its turn comes
            bar.say(f"skipped: {sentence}")
            progress.skipped.append(sentence)
    if len(progress.skipped) > job.data.max_skipped:
        raise UserError(f"{len(progress.skipped)} images were skipped, data.max_skipped is {job.data.max_skipped}")


def _epoch_line(job: Job, entry: dict[str, float], images_per_second: float) -> str:
    shown = [f"{name} {entry[name]:.3f}" for name in ("total", "label", "global", "spatial") if name in entry]
    shown += [
        f"{name} {100 * entry[name]:.1f} %" for name in ("spatial_agreement", "top1", "ema_top1") if name in entry
    ]
    title = f"{job.title}: epoch {entry['epoch']:.0f}/{job.recipe.epochs}"
    return "  ".join([title, *shown, f"{images_per_second:,.0f} img/s"])

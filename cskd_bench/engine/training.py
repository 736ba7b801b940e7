"""The training loop, from top to bottom; pretraining and fine-tuning both run through it.

The way of a batch:

    plan       which views of which images, a function of the seed and the step      data.loader.ViewPlan
    workers    decode, crop, augment: views as bytes (B, 3, S, S)                    data.engines.worker_views
    look up    what a bank knows of these views, on the host                         targets.look_up
    finish     to the device, to [0, 1], erase, mix; labels (B, K)                   data.engines.finish_batch
    targets    the teacher's responses to the very same views, fused (or the bank's) targets(...)
    student    views at its own resolution to class, distillation and patch logits   models.students.Student
    losses     the method's parts, in fp32; `total` is what is minimised             methods.objective_of
    update     gradients averaged over ranks, scaled back, clipped, applied; EMA     engine.finite.FiniteWatch

Ranks agree once a step, on the host, before any of them waits for another's gradients.
"""

import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cskd_bench.compilation import compile_fixed, forget_compiled, resolve_compile
from cskd_bench.data.engines import finish_batch
from cskd_bench.data.mixing import resize_view
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.data.train_views import Batch
from cskd_bench.device import computing, enough_memory, exact_fp32, seed_draws
from cskd_bench.engine.average import WeightAverage
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.engine.feed import Feed, plan_views
from cskd_bench.engine.finite import Advice, FiniteWatch
from cskd_bench.engine.job import Fit, Job
from cskd_bench.engine.logs import Bar, Meter, RunLog, progress_bar, stack
from cskd_bench.engine.optim import build_optimizer, learning_rate, set_learning_rate
from cskd_bench.engine.pace import Pace
from cskd_bench.engine.projected import build_projector, share_images, with_projector
from cskd_bench.engine.scores import epoch_line, score_split, scores_of_epoch, val_views
from cskd_bench.engine.state import Trained, resume, save
from cskd_bench.errors import Interrupted
from cskd_bench.half_speed import slow_precision
from cskd_bench.memory import keep_memory
from cskd_bench.methods import loss_parts, ratio_at
from cskd_bench.models.students import choose_attention
from cskd_bench.outputs import StudentOutput, Targets
from cskd_bench.stopping import Stop, stop_signals


def fit(job: Job, ranks: Ranks, stop: Stop | None = None) -> Fit:
    """Train to the end of the recipe, or on from the newest valid checkpoint in job.folder.

    Raises Interrupted after SIGTERM, SIGUSR1 or Ctrl-C (what was done is kept), and UserError for a changed recipe,
    for what is not finite (before an update is made from it) and for corrupt images beyond the policy. With several
    ranks all raise the same.
    """
    if ranks.device.type == "cpu":
        keep_memory()
    with enough_memory(), exact_fp32(), stop_signals(stop) as asked:
        run = _Run(job, ranks, asked)
        with progress_bar(job.title, run.plan.steps, run.progress.step, ranks.is_main) as bar:
            predictions = run.train(bar)
    if job.val is not None and predictions is None:  # a checkpoint of release 0.1.0 after the last step
        predictions = score_split(job, job.val, ranks, run.student)
    done = run.progress
    rate = run.plan.steps * job.recipe.batch_size / max(done.seconds, 1e-9)
    averaged = run.ema.module if run.ema is not None else None
    return Fit(
        run.student,
        averaged,
        done.curve,
        predictions,
        done.seconds,
        rate,
        done.started,
        done.resumptions,
        evaluation_seconds=done.evaluation_seconds,
    )


class _Run:
    """A job under way on this rank."""

    def __init__(self, job: Job, ranks: Ranks, stop: Stop) -> None:
        self.job, self.ranks, self.stop = job, ranks, stop
        recipe, device = job.recipe, ranks.device
        # The collectives of a step depend on how it is carried out, apart from how each rank makes its views.
        how = job.run.model_dump(mode="json", exclude={"workers", "prefetch_memory", "eval_memory", "cache"})
        ranks.same("configuration", {"name": job.folder.name, "run": how, **job.identity})
        self.plan = ranks.together(lambda: plan_views(job, ranks))
        self.student = job.student.to(device)
        choose_attention(self.student, device, recipe.precision)
        self.ema = WeightAverage(self.student, recipe.ema_decay) if recipe.ema_decay > 0 else None
        projector = ranks.together(lambda: build_projector(job.method, self.student, job.targets.widths, job.seed))
        self.optimizer = build_optimizer(self.student, recipe.optim, projector)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.trained = Trained(self.student, self.ema, self.optimizer, self.scaler, projector)
        self.progress, self.notes = resume(job.folder, job.identity, self.trained, ranks)
        compiled = resolve_compile(job.run, device)
        if compiled.student:
            forget_compiled()
        module: Any = compile_fixed(self.student) if compiled.student else self.student
        module = with_projector(self.student, module, projector, job.method)
        # Three ranks and more add up in an order that follows DDP's buckets, which a process changes after its first
        # step: a resumed run would round otherwise. They stay where unused parameters are looked for.
        keeps_buckets = device.type == "cpu" and ranks.world > 2
        several = ranks.world > 1
        self.module: Any = _distribute(module, keeps_buckets) if several else module
        self.watch = FiniteWatch(
            self.optimizer,
            self.scaler,
            [weight for part in self.trained.modules() for weight in part.parameters()],
            Advice(recipe.precision, job.teacher_precision),
            device,
            self.progress.skipped_updates,
        )
        self.views = val_views(job, ranks)
        self.feed = ranks.together(lambda: Feed(job, ranks, self.plan, self.progress, stop))
        self.pace = Pace(job, ranks, self.progress)
        self.notes += [self.feed.note] if self.feed.note else []
        scored = self.progress.pending is None
        self.log = RunLog(job.folder, self.progress.step, scored=scored) if ranks.is_main else None
        if compiled.note:
            self.notes.append(compiled.note)
        if slow := slow_precision(device, recipe.precision):
            self.notes.append(f"{slow}; precision fp32, which is another recipe, will be faster here")

    def train(self, bar: Bar) -> Predictions | None:
        """Take step after step, score and keep; return what the last epoch's scoring said of each image."""
        progress, steps, predictions = self.progress, self.plan.steps, None
        for note in self.notes:
            bar.say(f"{self.job.title}: {note}")
        self.module.train()
        while True:
            if progress.pending is not None:
                predictions = self._finish_epoch(bar, progress.pending)
                self.module.train()  # scoring has set it to evaluation
            if progress.step == steps:
                break
            stopping = self._train_step(bar)
            every = self.job.run.save_every
            if stopping or progress.pending is not None or (every and progress.step % every == 0):
                self.ranks.together(lambda: self.watch.check(all_steps=True))
                progress.skipped_updates = self.watch.skipped
                save(self.job, self.progress, self.trained, self.ranks)
            if stopping:
                told = f"stopped after step {progress.step} of {steps}"
                raise Interrupted(f"{told}; the same command continues from here")
        if self.log is not None:
            self.log.close()
        return predictions

    def _train_step(self, bar: Bar) -> bool:
        """Take one step of the optimiser; return whether a rank was asked to stop."""
        job, progress, recipe, device = self.job, self.progress, self.job.recipe, self.ranks.device
        run = job.run

        # Which step this is, and what follows from that alone.
        began = time.perf_counter()
        step = progress.step
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        ratio = ratio_at(job.method, epoch / recipe.epochs)
        rate = learning_rate(recipe.optim, step, self.plan.steps_per_epoch, self.plan.steps)
        last_of_epoch = within + 1 == self.plan.steps_per_epoch
        log_now = (step + 1) % run.log_every == 0 or last_of_epoch
        set_learning_rate(self.optimizer, rate)
        seed_draws(integer_seed(job.seed, Stream.STEP, index=step, repeat=self.ranks.rank), device)

        # The host's half, which may fail on one rank: all agree before any of them waits for another's gradients.
        fetched, failed = None, None
        try:
            self.watch.check()
            fetched = self.feed.fetch(bar, ratio)
        except Exception as error:
            failed = error
        stopping = self.ranks.settle(failed, stop=self.stop.requested)
        assert fetched is not None

        # The device's half: views, targets, forward and backward, micro-batch by micro-batch.
        for part, (batch, known) in enumerate(fetched):
            self._backward(batch, known, ratio, last=part + 1 == run.accumulate, log_now=log_now)

        # The update, which is skipped where a gradient is not finite.
        progress.window.add(*stack(self.watch.update(recipe.optim.clip_grad, partial(self._where, step))))
        if self.ema is not None:
            self.ema.update(self.student)
        progress.step += 1

        # What a person sees of it.
        schedule = {"lr": rate, "fusion_ratio": ratio}
        if log_now:
            self.ranks.together(lambda: self.watch.check(all_steps=True))
        progress.seconds += time.perf_counter() - began
        if log_now:
            progress.window.add(*self.pace.measure(self.feed.waited))
            means = progress.window.means(self.ranks)
            progress.window = Meter()
            if self.log is not None:
                self.log.write(progress.step, schedule | means)
            if todo := self.pace.close_window(means, self.feed.waited, epoch_ends=last_of_epoch):
                bar.say(todo)
        bar.advance(self.pace.rate(), f"epoch {epoch + 1}/{recipe.epochs}  {self.pace.shown()}")
        if last_of_epoch:
            self.ranks.share_buffers(self.student, self.ema)
            progress.pending = {"epoch": float(epoch + 1), **schedule, **progress.epoch.means(self.ranks)}
            progress.epoch = Meter()
        return stopping

    def _backward(self, batch: Batch, known: Targets, ratio: float, *, last: bool, log_now: bool) -> None:
        """Add a micro-batch's gradients; ranks exchange them with the last one."""
        job, recipe, device = self.job, self.job.recipe, self.ranks.device
        views, labels = finish_batch(batch, recipe.augment, job.data.num_classes, device)
        targets = job.targets(views, known, ratio)
        with nullcontext() if last or self.ranks.world == 1 else self.module.no_sync():
            with computing(device, recipe.precision):
                output = self.module(resize_view(views, job.image_size), job.targets.grid)
            output = output.in_fp32()
            if self.ranks.world > 1 and job.method.compares_images:
                output, targets, labels = share_images(output, targets, labels, self.ranks.rank, self.ranks.world)
            parts = loss_parts(job.method, output, targets, labels)
            loss = self.watch.guard(parts["total"] / job.run.accumulate, targets.finite)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for shown in (parts, _agreement(output, targets) if log_now else {}):
            if shown:
                names, values = stack(shown)
                self.progress.window.add(names, values)
                self.progress.epoch.add(names, values)

    def _finish_epoch(self, bar: Bar, entry: dict[str, float]) -> Predictions | None:
        """Score the epoch that has just been kept; asked to stop, leave that to the process that goes on."""
        epoch, steps, began = round(entry["epoch"]) - 1, self.plan.steps, time.perf_counter()
        try:
            scores, predictions = scores_of_epoch(
                self.job, self.ranks, self.student, self.ema, self.views, epoch, lambda: self.stop.requested
            )
        except Interrupted:
            raise Interrupted(
                f"stopped while epoch {epoch + 1} was scored, after step {self.progress.step} of {steps}; "
                "the same command continues from here"
            ) from None
        self.progress.evaluation_seconds += time.perf_counter() - began
        self.progress.curve.append(entry | scores)
        self.progress.pending = None
        if self.log is not None and scores:
            self.log.write(self.progress.step, scores)
        bar.say(epoch_line(self.job, self.progress.curve[-1], self.pace.rate(), self.pace.shown()))
        return predictions

    def _where(self, step: int) -> str:
        """Name a step to a person, with the first of this rank's images in it."""
        images = sorted({key.index for key in self.plan.share(step, self.ranks.rank, self.ranks.world)})
        named = ", ".join(map(str, images[:8])) + (", ..." if len(images) > 8 else "")
        return f"at step {step + 1} (epoch {step // self.plan.steps_per_epoch + 1}, images {named})"


def _distribute(module: Any, keeps_buckets: bool) -> DistributedDataParallel:
    """Let ranks average gradients, in the buckets' own memory; buffers are shared at an epoch's end alone."""
    distributed = DistributedDataParallel(module, find_unused_parameters=keeps_buckets, gradient_as_bucket_view=True)
    distributed.broadcast_buffers = False  # torch warns each rank's user of the argument from 2.13 on
    return distributed


def _agreement(output: StudentOutput, targets: Targets) -> dict[str, Tensor]:
    """Return the fraction of places whose patch label is the teacher's fused label."""
    if output.patch_logits is None or targets.spatial_target is None:
        return {}
    wanted = targets.spatial_target
    wanted = wanted.argmax(1) if wanted.is_floating_point() else wanted
    return {"spatial_agreement": (output.patch_logits.argmax(1) == wanted).float().mean()}

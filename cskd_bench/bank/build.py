"""Building a bank: make the run's views, let the teacher label them, pack, write shard by shard."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch.utils.data import DataLoader

from cskd_bench.bank.claim import claim_shard, launcher_rank
from cskd_bench.bank.envelope import MOST_EPOCHS, upper_envelope
from cskd_bench.bank.flips import first_views, label_flips
from cskd_bench.bank.match import bank_plan, teacher_identity, teacher_source, views_identity, why_no_bank
from cskd_bench.bank.pack import pack, soft_targets
from cskd_bench.bank.shard import write_shard
from cskd_bench.bank.store import SOFT_CLASSES, Bank, BankManifest, begin_bank, cost_path, shard_path
from cskd_bench.compilation import resolve_compile
from cskd_bench.config import PretrainConfig
from cskd_bench.data.decode import DECODING
from cskd_bench.data.delivery import deliver, usable_workers
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.loader import LOOK, Batch, ViewPlan, leave_signals_to_the_main_process, next_item, start_loader
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import Source
from cskd_bench.device import default_device, pins
from cskd_bench.errors import UserError
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import Teacher, build_teacher

_SHARD_VIEWS = 65_536
_COMPARED_VIEWS = 64  # with fp32, where the teacher's precision is another
_VERSIONS = ("torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True)
class Built:
    """What one call of build_bank did."""

    views: int
    shards: int
    shards_before: int  # that were there already
    seconds: float


def build_bank(
    config: PretrainConfig,
    out: Path,
    epochs: range | None = None,
    shard: tuple[int, int] = (1, 1),
    device: torch.device | None = None,
) -> Built:
    """Label a run's views (all epochs by default) into the bank `out`; what is there already is kept.

    Processes that build one bank share its work: a shard is labelled by one of them, and all return when
    the bank is whole. `shard` = (i, n) is for machines without a common file system: the i-th of n parts,
    i from 1. Each shard appears whole or not at all. A kd configuration adds soft targets. UserError for
    a configuration without a teacher, another bank in `out`, or a teacher whose response is not finite.
    """
    device = device or default_device()
    epochs = range(config.recipe.epochs) if epochs is None else epochs
    _check_arguments(config, epochs, shard)
    source = open_source(config.data, config.data.train)
    compiled = resolve_compile(config.run, device)
    classes = source.classes, config.data.num_classes
    teacher = labelling_teacher(config.teacher, *classes, device, compiled=compiled.teacher)
    plan = bank_plan(config, len(source))
    manifest = _manifest(config, source, teacher, plan)
    begin_bank(out, manifest)
    bank = Bank(out)
    wanted = [(epoch, part) for epoch in epochs for part in range(manifest.parts())][shard[0] - 1 :: shard[1]]
    todo = [(epoch, part) for epoch, part in wanted if not shard_path(out, epoch, part).exists()]
    is_first = launcher_rank()[0] == 0  # which talks to the terminal
    if is_first:
        bank.manifest.tell_decoding(out)
    if is_first and todo and teacher.precision != "fp32":
        _tell_flips(config, source, teacher, device)
    labeller = _Labeller(config, source, teacher, plan, bank, device)
    began, views, shards = time.perf_counter(), 0, 0
    with Progress(disable=not is_first) as progress:
        task = progress.add_task("labelling views", total=sum(labeller.size(part) for _, part in todo))
        for wait in (False, True):  # first what no other process is at, then what another one left undone
            for epoch, part in todo:
                with claim_shard(shard_path(out, epoch, part), wait=wait) as ours:
                    if not ours:
                        continue
                    done = sum(labeller.size(other) for at, other in todo if shard_path(out, at, other).exists())
                    shard_began = time.perf_counter()
                    packed: list[bytes] = []
                    for labelled in labeller.batches(epoch, part):
                        packed += labelled
                        progress.update(task, completed=done + len(packed))
                    first = part * manifest.views_per_shard
                    _note_cost(cost_path(out, epoch, part), len(packed), time.perf_counter() - shard_began, device)
                    write_shard(shard_path(out, epoch, part), manifest.fingerprint(), epoch, first, packed)
                    views, shards = views + len(packed), shards + 1
        progress.update(task, completed=progress.tasks[task].total)
    return Built(views, shards, len(wanted) - len(todo), time.perf_counter() - began)


def _check_arguments(config: PretrainConfig, epochs: range, shard: tuple[int, int]) -> None:
    if not config.method.needs_teacher:
        raise UserError(f"method {config.method.kind} has no teacher, so there is nothing to label")
    if (config.method.teacher_features or config.method.needs_all_logits) and (reason := why_no_bank(config)):
        raise UserError(f"{reason}; build the bank from another method's configuration")
    if config.recipe.epochs > MOST_EPOCHS:
        raise UserError(
            f"recipe.epochs {config.recipe.epochs:,}: a bank holds the ratios of up to {MOST_EPOCHS:,} epochs"
        )
    if not epochs or epochs[0] < 0 or epochs[-1] >= config.recipe.epochs:
        raise UserError(f"--epochs {epochs.start}:{epochs.stop}: the run has epochs 0:{config.recipe.epochs}")
    if not 1 <= shard[0] <= shard[1]:
        raise UserError(f"--shard {shard[0]}/{shard[1]}: expected i/n with i from 1 to n")


def _manifest(config: PretrainConfig, source: Source, teacher: Teacher, plan: ViewPlan) -> BankManifest:
    batch = config.recipe.batch_size
    teacher_part = teacher_identity(config)
    if teacher_part["weights"] is None:
        teacher_part["weights"] = _weights_digest(config, source)
    return BankManifest(
        views=views_identity(config, source),
        teacher=teacher_part,
        teacher_source=teacher_source(config),
        precision=config.teacher.precision,
        note=teacher.note,
        num_classes=config.data.num_classes,
        grid=teacher.grid(),
        epochs=config.recipe.epochs,
        views_per_epoch=plan.steps_per_epoch * plan.batch_size,
        views_per_shard=max(_SHARD_VIEWS // batch, 1) * batch,
        soft_classes=min(SOFT_CLASSES, config.data.num_classes) if config.method.labels == "soft" else 0,
        soft_temperature=config.method.soft_temperature,
        decoding=DECODING,
        versions={name: version(name) for name in _VERSIONS},
    )


def _tell_flips(config: PretrainConfig, source: Source, teacher: Teacher, device: torch.device) -> None:
    """Say how many labels are not fp32's, on the first views, before hours are spent on the rest."""
    flips = label_flips(teacher, first_views(config, source, _COMPARED_VIEWS, device))
    print(f"teacher.precision {teacher.precision} flips {flips}, on the first {flips.views} views, against fp32")


def _weights_digest(config: PretrainConfig, source: Source) -> str:
    """Hash a teacher of timm's own as it comes, before its norms are folded."""
    teacher = build_teacher(config.teacher, source.classes, config.data.num_classes)
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _note_cost(path: Path, views: int, seconds: float, device: torch.device) -> None:
    """Write down what labelling a shard took, for the first-run cost."""
    try:
        path.write_text(
            json.dumps({"views": views, "seconds": round(seconds, 3), "device": device.type}) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


class _Labeller:
    """Makes and labels the views of one shard after the other, in the run's own batches."""

    def __init__(
        self,
        config: PretrainConfig,
        source: Source,
        teacher: Teacher,
        plan: ViewPlan,
        bank: Bank,
        device: torch.device,
    ) -> None:
        self._config = config
        self._teacher = teacher
        self._plan = plan
        self._manifest = bank.manifest
        self._ladder = bank.ladder
        self._device = device
        self._skipped: set[str] = set()
        augment = config.recipe.augment
        self._dataset = worker_views(source, augment, config.view_size, config.seed, config.data)

    def size(self, part: int) -> int:
        """Return how many views a shard has."""
        each = self._manifest.views_per_shard
        return min(each, self._manifest.views_per_epoch - part * each)

    def batches(self, epoch: int, part: int) -> Iterator[list[bytes]]:
        """Yield packed views, batch by batch, in the order of their positions."""
        groups_first = part * self._manifest.views_per_shard // self._plan.batch_size
        groups = self.size(part) // self._plan.batch_size
        step = epoch * self._plan.steps_per_epoch + groups_first
        keys = [key for group in range(groups) for key in self._plan.keys(step + group)]
        batch = self._config.recipe.batch_size
        workers = usable_workers(self._config.run.workers)
        loader = DataLoader(
            self._dataset,
            batch_sampler=[keys[start : start + batch] for start in range(0, len(keys), batch)],
            num_workers=workers,
            worker_init_fn=leave_signals_to_the_main_process,
            collate_fn=deliver,
            pin_memory=pins(self._device),
            timeout=LOOK if workers else 0,
        )
        batches = start_loader(loader)
        while (made := next_item(batches, workers)) is not None:
            self._account_for_skipped(made)
            yield self._label(made)

    def _account_for_skipped(self, batch: Batch) -> None:
        for sentence in dict.fromkeys(batch.skipped):
            if sentence not in self._skipped:
                print(f"skipped: {sentence}")
                self._skipped.add(sentence)
        if len(self._skipped) > (limit := self._config.data.max_skipped):
            raise UserError(f"{len(self._skipped)} images were skipped, data.max_skipped is {limit}")

    @torch.no_grad()
    def _label(self, batch: Batch) -> list[bytes]:
        config = self._config
        views, _ = finish_batch(batch, config.recipe.augment, config.data.num_classes, config.seed, self._device)
        output = self._teacher(views)
        global_ = output.global_logits
        try:
            envelope = upper_envelope(output.dense, global_, self._ladder)
        except ValueError as error:
            raise UserError(f"epoch {batch.keys[0].epoch}, views from {batch.keys[0].position}: {error}") from error
        soft = None
        if self._manifest.soft_classes:
            soft = soft_targets(global_, self._manifest.soft_classes, self._manifest.soft_temperature)
        return pack(envelope, soft)


def _identity(batch: Any) -> Any:
    return batch

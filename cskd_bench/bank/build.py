"""Building a bank: make the run's views, let the teacher label them, pack, write shard by shard."""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from rich.progress import Progress

from cskd_bench.bank.claim import Claims, ShardPlace, launcher_rank, refuse_to_go_on
from cskd_bench.bank.envelope import MOST_EPOCHS
from cskd_bench.bank.flips import first_views, label_flips
from cskd_bench.bank.labelling import Labeller
from cskd_bench.bank.match import bank_plan, teacher_identity, teacher_source, views_identity, why_no_bank
from cskd_bench.bank.shard import write_shard
from cskd_bench.bank.store import SOFT_CLASSES, Bank, BankManifest, begin_bank, cost_path, shard_path
from cskd_bench.compilation import resolve_compile
from cskd_bench.config import PretrainConfig
from cskd_bench.data.decode import DECODING
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import Source
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.device import default_device
from cskd_bench.errors import UserError
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import Teacher, build_teacher
from cskd_bench.stopping import Stop

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
    stop: Stop | None = None,
) -> Built:
    """Label a run's views (all epochs by default) into the bank `out`; what is there already is kept.

    Processes that build one bank share its work: a shard is labelled by one of them, and all return when
    the bank is whole. `shard` = (i, n) is for machines without a common file system: the i-th of n parts,
    i from 1. Each shard appears whole or not at all. A kd configuration adds soft targets. UserError for
    a configuration without a teacher, another bank in `out`, or a teacher whose response is not finite. Interrupted
    where `stop` is requested.
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
    wanted = [ShardPlace(epoch, part) for epoch in epochs for part in range(manifest.parts())][shard[0] - 1 :: shard[1]]
    todo = [place for place in wanted if not shard_path(out, *place).exists()]
    is_first = launcher_rank()[0] == 0  # which talks to the terminal
    if is_first and compiled.note:
        print(compiled.note, file=sys.stderr)
    if is_first:
        bank.manifest.tell_decoding(out)
    if is_first and todo and teacher.precision != "fp32":
        _tell_flips(config, source, teacher, device)
    labeller = Labeller(config, source, teacher, plan, bank, device)
    began, done = time.perf_counter(), []
    with Progress(disable=not is_first) as progress:
        total = sum(labeller.size(part) for _, part in todo)
        bar = partial(progress.update, progress.add_task("labelling views", total=total))
        with Claims(out, todo) as claims:  # first what no other process is at
            done += _label_claimed(labeller, claims, out, todo, bar, stop)
        for place in todo:  # then what another one left undone; whoever waits for another one holds nothing
            with Claims(out, [place], wait=True, stop=stop) as claims:
                if claims.claim_next():
                    done += _label_claimed(labeller, claims, out, todo, bar, stop)
        bar(completed=total)
    return Built(sum(done), len(done), len(wanted) - len(todo), time.perf_counter() - began)


def _label_claimed(
    labeller: Labeller,
    claims: Claims,
    out: Path,
    todo: list[ShardPlace],
    bar: Callable[..., None],
    stop: Stop | None,
) -> list[int]:
    """Label and write shard after shard, as they are claimed; return their numbers of views."""
    if not todo:
        return []
    manifest, done, packed = labeller.manifest, [], []
    began, before = time.perf_counter(), None
    for labelled in labeller.batches(claims):
        refuse_to_go_on(stop)
        epoch, part = claims.held[0].place
        if before is None:
            before = sum(labeller.size(other) for at, other in todo if shard_path(out, at, other).exists())
        packed += labelled
        bar(completed=before + len(packed))
        if len(packed) < labeller.size(part):
            continue
        seconds = time.perf_counter() - began
        _note_cost(cost_path(out, epoch, part), len(packed), seconds, labeller.device)
        first = part * manifest.views_per_shard
        write_shard(shard_path(out, epoch, part), manifest.fingerprint(), epoch, first, packed)
        claims.release_first()
        done.append(len(packed))
        packed, began, before = [], time.perf_counter(), None
    return done


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

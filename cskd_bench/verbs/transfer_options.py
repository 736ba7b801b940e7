"""Options of `transfer` that need more than a line: lists, preprocessing, the checkpoint, and what goes together."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import whole

if TYPE_CHECKING:
    from cskd_bench.models.preprocessing import Preprocessing
    from cskd_bench.task import TaskSpec


def add_preprocessing(verb: argparse.ArgumentParser) -> None:
    """Add what replaces the preprocessing of the checkpoint or the task."""
    for name in ("--mean", "--std"):
        said = f"{name[2:]} of pixels in [0, 1] (default: the checkpoint's)"
        verb.add_argument(name, type=float, nargs=3, metavar=("R", "G", "B"), help=said)
    said = "evaluate: share of the shorter side, or `checkpoint` (default: the task's)"
    verb.add_argument("--crop", type=_crop, metavar="SHARE", help=said)
    verb.add_argument(
        "--interpolation", choices=("bicubic", "bilinear", "checkpoint"), help="evaluate: resampling (default: bicubic)"
    )


def _crop(text: str) -> float | str:
    """Read a share of an image's side, or the word that takes the checkpoint's own."""
    with contextlib.suppress(ValueError):
        if text == "checkpoint" or 0 < float(text) <= 1:
            return text if text == "checkpoint" else float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a share in (0, 1] nor `checkpoint`")


def words(text: str) -> list[str]:
    """Read words with commas between them."""
    found = [word.strip() for word in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty word between its commas")
    return found


def seeds(text: str) -> list[int]:
    """Read whole numbers with commas between them."""
    return [whole(word) for word in words(text)]


def asked_checkpoint(options: argparse.Namespace) -> Path:
    """Return the checkpoint that was asked for; UserError where it is named twice or not at all."""
    if not options.pretrained:
        if options.checkpoint is None:
            raise UserError("--checkpoint is missing: name a run folder or a weights file (or --model X --pretrained)")
        return Path(options.checkpoint)
    if options.checkpoint is not None or not options.model:
        raise UserError("--pretrained takes timm's own weights of --model TIMM_NAME; it goes without --checkpoint")
    return Path(f"timm:{options.model}")


def asked_tasks(options: argparse.Namespace) -> "tuple[list[TaskSpec], list[str]]":
    """Return the tasks that were asked for, and a sentence of each that was left out.

    Of a group or a pattern those are left out that lack a protocol that was asked for, as `cifar100_deit` does of
    `cifar*` for a probe. UserError for a word that names no task.
    """
    from cskd_bench.task import load_task
    from cskd_bench.task_groups import expand_tasks

    def lacks(name: str) -> list[str]:
        there = load_task(name, options.tasks_dir, options.set).protocols
        return [protocol for protocol in dict.fromkeys(options.protocol) if protocol not in there]

    named = expand_tasks(options.task, options.tasks_dir)
    kept = expand_tasks(options.task, options.tasks_dir, lambda name: not lacks(name))
    left_out = [f"{name}: left out, it has no {', '.join(lacks(name))}" for name in named if name not in kept]
    return [load_task(name, options.tasks_dir, options.set) for name in kept], left_out


def asked_preprocessing(options: argparse.Namespace) -> "Preprocessing | None":
    """Return what was asked of mean, std, crop and resampling; None where nothing was."""
    from cskd_bench.models.preprocessing import Preprocessing
    from cskd_bench.schema import validate

    asked = {key: getattr(options, key) for key in ("mean", "std", "crop", "interpolation")}
    asked = {key: value for key, value in asked.items() if value is not None}
    return validate(Preprocessing, asked, "transfer") if asked else None


def check_dry_run(options: argparse.Namespace) -> None:
    """UserError for --dry-run, which runs nothing, beside an option that changes what a run gives."""
    for option, given in (("--json", options.json), ("--limit", options.limit)):
        if options.dry_run and given:
            raise UserError(f"--dry-run and {option}: a dry run scores nothing; leave one of them out")

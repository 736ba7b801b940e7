"""`cskd-bench transfer`: run downstream tasks on a checkpoint."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cskd_bench.errors import Interrupted, UserError
from cskd_bench.verbs.common import EXIT_INTERRUPTED, EXIT_STOPPED, Verbs, add_places, add_task_data, whole

if TYPE_CHECKING:
    from cskd_bench.models.preprocessing import Preprocessing
    from cskd_bench.record import Record
    from cskd_bench.task import TaskSpec
    from cskd_bench.transfer.readiness import AskedCell, AskedCells


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("transfer", help="run downstream tasks on a checkpoint")
    verb.add_argument(
        "--task", action="append", required=True, help="names as in `tasks list`, groups, patterns or TOMLs"
    )
    verb.add_argument(
        "--checkpoint",
        type=Path,
        help="a run folder, an exported folder, a weights file with --model, or hf-hub:USER/REPO",
    )
    verb.add_argument("--model", default="", help="timm name of a weights file's architecture")
    verb.add_argument("--pretrained", action="store_true", help="timm's own weights of --model, without --checkpoint")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw", help="which weights of a run (default: raw)")
    verb.add_argument("--protocol", action="append", default=[], help="default: all of the task; repeatable")
    verb.add_argument("--seed", type=whole, action="append", default=[], help="default: 0; repeatable")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the task")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    add_task_data(verb)
    verb.add_argument("--discard-weights", action="store_true", help="keep no weights of fine-tuned students")
    _add_preprocessing(verb)
    verb.add_argument("--workers", type=whole, default=4, help="loader processes (default: 4)")
    verb.add_argument("--dry-run", action="store_true", help="show what would run on which data, and stop")
    add_places(verb)
    verb.set_defaults(run=_run)


def _add_preprocessing(verb: argparse.ArgumentParser) -> None:
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


def _checkpoint(options: argparse.Namespace) -> Path:
    """Return the checkpoint that was asked for; UserError where it is named twice or not at all."""
    if not options.pretrained:
        if options.checkpoint is None:
            raise UserError("--checkpoint is missing: name a run folder or a weights file (or --model X --pretrained)")
        return Path(options.checkpoint)
    if options.checkpoint is not None or not options.model:
        raise UserError("--pretrained takes timm's own weights of --model TIMM_NAME; it goes without --checkpoint")
    return Path(f"timm:{options.model}")


def _preprocessing(options: argparse.Namespace) -> "Preprocessing | None":
    """Return what was asked of mean, std, crop and resampling; None where nothing was."""
    from cskd_bench.models.preprocessing import Preprocessing
    from cskd_bench.schema import validate

    asked = {key: getattr(options, key) for key in ("mean", "std", "crop", "interpolation")}
    asked = {key: value for key, value in asked.items() if value is not None}
    return validate(Preprocessing, asked, "transfer") if asked else None


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task
    from cskd_bench.task_groups import expand_tasks

    checkpoint, preprocessing = _checkpoint(options), _preprocessing(options)
    specs = [load_task(name, options.tasks_dir, options.set) for name in expand_tasks(options.task, options.tasks_dir)]
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.engine.state import stop_signals
    from cskd_bench.transfer.placing import place_tasks
    from cskd_bench.transfer.protocols import say_weights
    from cskd_bench.transfer.readiness import look_ahead, run_ready, table
    from cskd_bench.transfer.run import expand, transfer

    seeds, work = options.seed or [0], options.runs / "transfer"
    expand(specs, options.protocol, seeds)  # a protocol that a task has not is told before anything is fetched
    if options.dry_run:
        _describe(specs, options, checkpoint, preprocessing)
        return 0

    def prepare() -> "AskedCells":
        placed = place_tasks(specs, options.data_dir, fetch=options.download)
        for done in dict.fromkeys(one.done for one in placed if one.done):
            print(done)
        return look_ahead(placed, options.protocol, seeds)

    try:
        with joined_ranks() as ranks, stop_signals() as stop:
            asked = ranks.on_main(prepare)

            def run(cell: "AskedCell") -> "Record":
                spec, protocol, seed = cell
                record = transfer(
                    spec,
                    protocol,
                    checkpoint,
                    seed,
                    results=options.results,
                    work=work,
                    ranks=ranks,
                    model="" if options.pretrained else options.model,
                    weights=options.weights,
                    preprocessing=preprocessing,
                    keep_weights=not options.discard_weights,
                    workers=options.workers,
                    stop=stop,
                )
                if ranks.is_main:
                    score = f"{record.task.metric} {100 * record.value:.2f} %"
                    print(f"{spec.name} {protocol} seed {seed}: {score}  ({record.id}.json)")
                    if (said := say_weights(record, spec, work)) and not options.discard_weights:
                        print(said)
                return record

            failed = run_ready(asked, run, ranks)
            if failed and ranks.is_main:
                print(table(asked, failed))
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED if stopped.kept else EXIT_STOPPED
    return 1 if failed else 0


def _describe(
    specs: "list[TaskSpec]", options: argparse.Namespace, checkpoint: Path, preprocessing: "Preprocessing | None"
) -> None:
    """Say in a line each what cells would do."""
    from cskd_bench.device import default_device
    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.transfer.placing import place_tasks
    from cskd_bench.transfer.protocols import describe_size
    from cskd_bench.transfer.run import describe, expand, open_cell

    for one in place_tasks(specs, options.data_dir, fetch=options.download, change=False):
        if one.done:
            print(one.done)
        for spec, protocol, seed in expand([one.spec], options.protocol, options.seed or [0]):
            if one.problem:
                print(f"{spec.name} {protocol} seed {seed}: data not ready: {one.problem}")
                continue
            cell = open_cell(
                spec,
                protocol,
                checkpoint,
                seed,
                work=options.runs / "transfer",
                ranks=Ranks(0, 1, default_device()),
                model="" if options.pretrained else options.model,
                weights=options.weights,
                preprocessing=preprocessing,
            )
            print(describe(cell, options.results))
            if said := describe_size(cell):
                print(said)

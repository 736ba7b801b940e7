"""`cskd-bench transfer`: run downstream tasks on a checkpoint."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cskd_bench.errors import Interrupted
from cskd_bench.verbs.common import (
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    Verbs,
    add_device,
    add_places,
    add_task_data,
    positive,
    whole,
    working_on,
)
from cskd_bench.verbs.output import Output, add_output, opened_output
from cskd_bench.verbs.transfer_options import (
    add_preprocessing,
    asked_checkpoint,
    asked_preprocessing,
    asked_tasks,
    check_dry_run,
    seeds,
    words,
)
from cskd_bench.verbs.transfer_results import CellResult, CellResults

if TYPE_CHECKING:
    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.models.preprocessing import Preprocessing
    from cskd_bench.stopping import Stop
    from cskd_bench.task import TaskSpec
    from cskd_bench.transfer.readiness import AskedCell, AskedCells


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("transfer", help="run downstream tasks on a checkpoint")
    verb.add_argument(
        "--task",
        action="append",
        required=True,
        help="names as in `tasks list`, groups, patterns or TOMLs; several with commas",
    )
    verb.add_argument(
        "--checkpoint",
        type=Path,
        help="a run folder, an exported folder, a weights file with --model, or hf-hub:USER/REPO",
    )
    verb.add_argument("--model", default="", help="timm name of a weights file's architecture")
    verb.add_argument("--pretrained", action="store_true", help="timm's own weights of --model, without --checkpoint")
    verb.add_argument(
        "--weights",
        choices=("raw", "ema", "initial"),
        default="raw",
        help="which weights of a run: as it ended (raw, the default), averaged (ema), or as it began (initial)",
    )
    verb.add_argument(
        "--protocol", type=words, action="extend", default=[], help="one, or several with commas (default: all)"
    )
    verb.add_argument(
        "--seed", type=seeds, action="extend", default=[], help="one, or several with commas (default: 0)"
    )
    verb.add_argument(
        "--limit", type=positive, default=0, metavar="N", help="a quick look: N images of each split, and no record"
    )
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the task")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    add_task_data(verb)
    verb.add_argument("--discard-weights", action="store_true", help="keep no weights of fine-tuned students")
    add_preprocessing(verb)
    add_device(verb)
    verb.add_argument("--workers", type=whole, default=4, help="loader processes (default: 4)")
    verb.add_argument("--dry-run", action="store_true", help="show what would run on which data, and stop")
    add_output(verb)
    add_places(verb)
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with working_on(options.device), opened_output(options) as output:
        return _run_cells(options, output)


def _run_cells(options: argparse.Namespace, output: Output) -> int:
    checkpoint, preprocessing = asked_checkpoint(options), asked_preprocessing(options)
    check_dry_run(options)
    specs, left_out = asked_tasks(options)
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.stopping import stop_signals
    from cskd_bench.transfer.placing import place_tasks
    from cskd_bench.transfer.quick import check_quick
    from cskd_bench.transfer.readiness import look_ahead, run_ready
    from cskd_bench.transfer.run import expand

    protocols, seeds = list(dict.fromkeys(options.protocol)), list(dict.fromkeys(options.seed or [0]))
    asked_for = expand(specs, protocols, seeds)  # a protocol that a task has not is told before anything is fetched
    if options.limit:
        check_quick(asked_for)
    if options.dry_run:
        for said in left_out:
            output.note(said)
        _describe(specs, options, checkpoint, preprocessing)
        return 0

    def prepare() -> "AskedCells":
        placed = place_tasks(specs, options.data_dir, fetch=options.download)
        for said in [*left_out, *dict.fromkeys(one.done for one in placed if one.done)]:
            output.note(said)
        return look_ahead(placed, protocols, seeds)

    results = None
    try:
        with joined_ranks() as ranks, stop_signals() as stop:
            asked = ranks.on_main(prepare)
            results = CellResults(asked)

            def run(cell: "AskedCell", result: CellResult) -> None:
                given = _Given(options, checkpoint, preprocessing, ranks, stop)
                (_look if options.limit else _transfer)(cell, result, given, output)

            with results.shown(output, as_json=options.json, main=ranks.is_main):
                failed = run_ready(asked, results.following(run), ranks)
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        kept = stopped.kept or (results is not None and results.any_done and not options.limit)
        return EXIT_INTERRUPTED if kept else EXIT_STOPPED
    return 1 if failed else 0


class _Given(NamedTuple):
    """What all cells of a command have in common."""

    options: argparse.Namespace
    checkpoint: Path
    preprocessing: "Preprocessing | None"
    ranks: "Ranks"
    stop: "Stop"

    @property
    def model(self) -> str:
        """The timm name of a weights file's architecture."""
        return "" if self.options.pretrained else self.options.model


def _transfer(cell: "AskedCell", result: CellResult, given: _Given, output: Output) -> None:
    """Run a cell to its record, and say its score."""
    from cskd_bench.transfer.protocols import say_weights
    from cskd_bench.transfer.run import transfer

    (spec, protocol, seed), options, work = cell, given.options, given.options.runs / "transfer"
    record = transfer(
        spec,
        protocol,
        given.checkpoint,
        seed,
        results=options.results,
        work=work,
        ranks=given.ranks,
        model=given.model,
        weights=options.weights,
        preprocessing=given.preprocessing,
        keep_weights=not options.discard_weights,
        workers=options.workers,
        stop=given.stop,
    )
    result.done(record.task.metric, record.value, str(options.results / "records" / f"{record.id}.json"))
    if given.ranks.is_main:
        score = f"{record.task.metric} {100 * record.value:.2f} %"
        output.result(f"{spec.name} {protocol} seed {seed}: {score}  ({record.id}.json)")
        if (said := say_weights(record, spec, work)) and not options.discard_weights:
            output.note(said)


def _look(cell: "AskedCell", result: CellResult, given: _Given, output: Output) -> None:
    """Score a cell on a few images, and say that there is no record of that."""
    from cskd_bench.transfer.quick import quick_look

    (spec, protocol, seed), options = cell, given.options
    value = quick_look(
        spec,
        protocol,
        given.checkpoint,
        seed,
        options.limit,
        ranks=given.ranks,
        model=given.model,
        weights=options.weights,
        preprocessing=given.preprocessing,
        workers=options.workers,
        stop=given.stop,
    )
    reason = f"no record: a quick look at no more than {options.limit:,} images of each split"
    result.done(spec.metric, value, reason=reason)
    if given.ranks.is_main:
        output.result(f"{spec.name} {protocol} seed {seed}: {spec.metric} {100 * value:.2f} %  ({reason})")


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

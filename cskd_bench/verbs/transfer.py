"""`cskd-bench transfer`: run downstream tasks on a checkpoint."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cskd_bench.errors import Interrupted
from cskd_bench.verbs.common import EXIT_INTERRUPTED, EXIT_STOPPED, Verbs, add_places, add_task_data, whole

if TYPE_CHECKING:
    from cskd_bench.record import Record
    from cskd_bench.task import TaskSpec
    from cskd_bench.transfer.readiness import AskedCell, AskedCells


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("transfer", help="run downstream tasks on a checkpoint")
    verb.add_argument("--task", action="append", required=True, help="a name as in `tasks list`, or a TOML; repeatable")
    verb.add_argument("--checkpoint", type=Path, required=True, help="a run folder, or a weights file with --model")
    verb.add_argument("--model", default="", help="timm name of a weights file's architecture")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw", help="which weights of a run (default: raw)")
    verb.add_argument("--protocol", action="append", default=[], help="default: all of the task; repeatable")
    verb.add_argument("--seed", type=whole, action="append", default=[], help="default: 0; repeatable")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the task")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    add_task_data(verb)
    verb.add_argument("--workers", type=whole, default=4, help="loader processes (default: 4)")
    verb.add_argument("--dry-run", action="store_true", help="show what would run on which data, and stop")
    add_places(verb)
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task

    specs = [load_task(name, options.tasks_dir, options.set) for name in options.task]
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.engine.state import stop_signals
    from cskd_bench.transfer.placing import place_tasks
    from cskd_bench.transfer.readiness import look_ahead, run_ready, table
    from cskd_bench.transfer.run import expand, transfer

    seeds = options.seed or [0]
    expand(specs, options.protocol, seeds)  # a protocol that a task has not is told before anything is fetched
    if options.dry_run:
        _describe(specs, options)
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
                    options.checkpoint,
                    seed,
                    results=options.results,
                    work=options.runs / "transfer",
                    ranks=ranks,
                    model=options.model,
                    weights=options.weights,
                    workers=options.workers,
                    stop=stop,
                )
                if ranks.is_main:
                    score = f"{record.task.metric} {100 * record.value:.2f} %"
                    print(f"{spec.name} {protocol} seed {seed}: {score}  ({record.id}.json)")
                return record

            failed = run_ready(asked, run, ranks)
            if failed and ranks.is_main:
                print(table(asked, failed))
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED if stopped.kept else EXIT_STOPPED
    return 1 if failed else 0


def _describe(specs: "list[TaskSpec]", options: argparse.Namespace) -> None:
    """Say in a line each what cells would do."""
    from cskd_bench.device import default_device
    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.transfer.placing import place_tasks
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
                options.checkpoint,
                seed,
                work=options.runs / "transfer",
                ranks=Ranks(0, 1, default_device()),
                model=options.model,
                weights=options.weights,
            )
            print(describe(cell, options.results))

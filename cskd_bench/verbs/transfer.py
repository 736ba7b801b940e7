"""`cskd-bench transfer`: run downstream tasks on a checkpoint."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cskd_bench.errors import Interrupted
from cskd_bench.verbs.common import EXIT_INTERRUPTED, Verbs, add_places, data_root, whole

if TYPE_CHECKING:
    from cskd_bench.task import TaskSpec


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("transfer", help="run downstream tasks on a checkpoint")
    verb.add_argument(
        "--task", action="append", required=True, help="names as in `tasks list`, groups, patterns or TOMLs"
    )
    verb.add_argument("--checkpoint", type=Path, required=True, help="a run folder, or a weights file with --model")
    verb.add_argument("--model", default="", help="timm name of a weights file's architecture")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw", help="which weights of a run (default: raw)")
    verb.add_argument("--protocol", action="append", default=[], help="default: all of the task; repeatable")
    verb.add_argument("--seed", type=whole, action="append", default=[], help="default: 0; repeatable")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the task")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    verb.add_argument("--workers", type=whole, default=4, help="loader processes (default: 4)")
    verb.add_argument("--dry-run", action="store_true", help="show what would run on which data, and stop")
    add_places(verb)
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task
    from cskd_bench.task_groups import expand_tasks

    overrides = [*options.set, *data_root(options)]
    specs = [load_task(name, options.tasks_dir, overrides) for name in expand_tasks(options.task, options.tasks_dir)]
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.engine.state import stop_signals
    from cskd_bench.transfer.run import expand, transfer

    cells = expand(specs, options.protocol, options.seed or [0])
    if options.dry_run:
        _describe(cells, options)
        return 0
    try:
        with joined_ranks() as ranks, stop_signals() as stop:
            for spec, protocol, seed in cells:
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
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _describe(cells: "list[tuple[TaskSpec, str, int]]", options: argparse.Namespace) -> None:
    """Say in a line each what cells would do."""
    from cskd_bench.device import default_device
    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.transfer.run import describe, open_cell

    for spec, protocol, seed in cells:
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

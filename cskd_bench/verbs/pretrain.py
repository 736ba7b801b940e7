"""`cskd-bench pretrain`: pretrain one student from a TOML; resumes when started again."""

import argparse
import sys
from functools import partial
from pathlib import Path

from cskd_bench.errors import Interrupted
from cskd_bench.verbs.common import (
    EXIT_INTERRUPTED,
    Verbs,
    add_device,
    add_method,
    add_places,
    asked_config,
    several_ranks,
    working_on,
)


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("pretrain", help="pretrain one student from a TOML; resumes when started again")
    verb.add_argument("config", type=Path, help="a TOML, as in configs/; shipped ones by name")
    add_method(verb)
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. recipe.epochs=100")
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    verb.add_argument("--dry-run", action="store_true", help="print steps, FLOPs, memory and disk need, and stop")
    verb.add_argument("--bank", type=Path, help="a bank of the teacher's labels: trains without the teacher")
    add_device(verb)
    add_places(verb)
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with working_on(options.device):
        return _pretrain(options)


def _pretrain(options: argparse.Namespace) -> int:
    config = None if several_ranks() else asked_config(options)  # a mistake is told at once, or on all ranks
    if options.dry_run:
        from rich.console import Console

        from cskd_bench.cells.pretraining_splits import look_at_splits
        from cskd_bench.engine.estimate import estimate, show

        config = config or asked_config(options)
        if note := look_at_splits(config.data):
            print(note, file=sys.stderr)
        show(estimate(config), Console())
        return 0
    from cskd_bench.cells.pretrain import pretrain
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.stopping import stop_signals

    try:
        with joined_ranks() as ranks, stop_signals() as stop:
            config = config or ranks.together(partial(asked_config, options))
            targets = None
            if options.bank:
                from cskd_bench.bank.targets import bank_targets

                targets = ranks.together(partial(bank_targets, options.bank, config), stop=stop.requested)
            record = pretrain(config, options.runs, options.results, ranks, targets, stop=stop)
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if ranks.is_main:
        print(f"{config.name}: top-1 {100 * record.value:.2f} %  ({options.results / 'records' / record.id}.json)")
    return 0

"""`cskd-bench advise`: whether CSKD is worth a try in a configuration, and what to measure first."""

import argparse
from pathlib import Path

from cskd_bench.verbs.common import Verbs, data_root


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("advise", help="whether CSKD is worth a try in a configuration, and what to measure first")
    verb.add_argument("config", type=Path, help="a pretraining TOML")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. recipe.epochs=100")
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    verb.add_argument("--bank", type=Path, help="a bank of the run's views, without mixing; one epoch is enough")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of your records (default: results)")
    verb.add_argument("--include-dirty", action="store_true", help="use records of uncommitted or unknown code too")
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from cskd_bench.advice.advise import advise
    from cskd_bench.advice.words import score, sentences, setting_lines
    from cskd_bench.config import load_config

    config = load_config(options.config, [*options.set, *data_root(options)], "cskd")
    named = [str(options.config), *(word for setting in options.set for word in ("--set", setting))]
    named += ["--data-dir", options.data_dir] if options.data_dir else []
    found = advise(config, named, options.results, options.bank, include_dirty=options.include_dirty)
    if options.json:
        told = {
            "method": found.method,
            "student": found.student,
            "pretrain_data": found.pretrain_data,
            "epochs": found.epochs,
            "teacher": found.teacher,
            "strength": found.strength and found.strength.model_dump(),
            "gate": {**found.gate.model_dump(), "gap": found.gate.gap, "open": found.gate.is_open},
            "expected": found.expected,
            "waiting_plan": found.waiting,
            "here": found.here and {**found.here.model_dump(), "outcome": found.here.outcome},
            "to_run": found.to_run,
            "unused_records": found.unused,
            "settings": [
                {**one.model_dump(), "expected": one.expected, "outcome": one.outcome, "verdict": one.verdict}
                for one in found.settings
            ],
        }
        print(json.dumps(told, indent=1))
        return 0
    console = Console()
    for line in sentences(found):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if found.to_run:
        console.print("\nRun next:")
        for command in found.to_run:
            console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        "\nWhat the rule rests on (95 % intervals, corrected for a plan's family, else of one difference alone):",
        soft_wrap=True,
    )
    for setting in found.settings:
        for line in setting_lines(setting):
            console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    console.print(score(found.settings), soft_wrap=True, highlight=False, markup=False)
    return 0

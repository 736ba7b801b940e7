"""`cskd-bench doctor`: check this machine and a data set, and say what to do."""

import argparse
from pathlib import Path

from cskd_bench.verbs.common import Verbs, add_method, add_task_data, positive


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("doctor", help="check this machine and a data set, and say what to do")
    verb.add_argument("--config", type=Path, help="a pretraining TOML: checks its data, teacher and disk need")
    add_method(verb)
    verb.add_argument("--dataset", default="", help="what the data set should be, e.g. imagenet1k, cifar100, coco")
    verb.add_argument("--task", help="a downstream task: checks that its data are here, whole and readable")
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override the task or configuration"
    )
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    add_task_data(verb)
    verb.add_argument("--counts-only", action="store_true", help="do not decode every image")
    verb.add_argument("--threads", type=positive, default=1, help="threads that decode (default: 1)")
    verb.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    verb.add_argument("--json", action="store_true", help="print the findings as JSON")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.doctor.examine import look
    from cskd_bench.doctor.findings import as_json, show_sections
    from cskd_bench.task import load_task
    from cskd_bench.task_groups import one_task

    named = one_task(options.task, options.tasks_dir) if options.task else ""
    sections = look(
        config=options.config,
        overrides=options.set,
        method=options.method,
        dataset=options.dataset,
        data_dir=options.data_dir,
        runs=options.runs,
        decode=not options.counts_only,
        threads=options.threads,
        task=load_task(named, options.tasks_dir, options.set) if named else None,
        download=options.download,
    )
    if options.json:
        import json

        told = as_json(sections)
        print(json.dumps(told, indent=1))
        return 0 if told["fine"] else 1
    from rich.console import Console

    return 0 if show_sections(sections, Console()) else 1

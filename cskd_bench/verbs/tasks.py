"""`cskd-bench tasks`: list, show or validate downstream tasks."""

import argparse
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import Verbs, data_root, whole


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("tasks", help="list, show or validate downstream tasks")
    verb.add_argument(
        "action",
        choices=("list", "show", "validate", "indices"),
        help="indices: which training images k-shot and low-label use, as JSON",
    )
    verb.add_argument("name", nargs="?", help="a task's name or TOML")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    verb.add_argument("--data-dir", help="the data set's folder: validate then checks the images too")
    verb.add_argument("--seed", type=whole, default=0, help="of indices (default: 0)")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task, task_files

    files = task_files(options.tasks_dir)
    names = [options.name] if options.name else sorted(files)
    specs = [load_task(name, options.tasks_dir, data_root(options)) for name in names]
    if options.action == "list":
        for spec in specs:
            size = f"{spec.data.num_classes} classes"
            print(f"{spec.name:20} v{spec.version} {size:>12}  {spec.metric:14}  {spec.description}")
            print(f"{'':20}    {', '.join(spec.protocols)}")
    elif options.action == "validate":
        for spec in specs:
            checked = ""
            if options.data_dir:
                from cskd_bench.transfer.run import look_at_data

                checked = f", {look_at_data(spec)}"
            print(f"{spec.name}: valid{checked}")
            for protocol in spec.protocols:
                print(f"    {protocol:10} fingerprint {spec.fingerprint(protocol)}")
    elif options.name is None:
        raise UserError(f"tasks {options.action}: name a task")
    elif options.action == "show":
        print(specs[0].model_dump_json(indent=1))
    else:
        import json

        from cskd_bench.data.open import open_split
        from cskd_bench.transfer.subsets import index_lists

        if not {"kshot", "lowlabel"} & set(specs[0].protocols):
            raise UserError(f"tasks indices: {specs[0].name} has neither kshot nor lowlabel, so nothing is drawn")
        labels = open_split(specs[0].data, specs[0].data.train).labels
        print(json.dumps({"task": specs[0].name, "seed": options.seed, **index_lists(specs[0], labels, options.seed)}))
    return 0

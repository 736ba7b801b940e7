"""`cskd-bench tasks`: list, show or validate downstream tasks."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import Verbs, add_task_data, data_root, whole

if TYPE_CHECKING:
    from cskd_bench.task import TaskSpec


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
    add_task_data(verb)
    verb.add_argument("--seed", type=whole, default=0, help="of indices (default: 0)")
    verb.add_argument("--json", action="store_true", help="list as JSON")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task, task_files
    from cskd_bench.task_groups import one_task

    if options.json and options.action != "list":
        raise UserError(f"tasks {options.action}: --json is for list; show and indices are JSON already")
    tasks_dir = options.tasks_dir
    names = [one_task(options.name, tasks_dir)] if options.name else sorted(task_files(tasks_dir))
    reads = options.action in ("validate", "indices")
    root = [] if reads else data_root(options)
    specs = [load_task(name, options.tasks_dir, root) for name in names]
    if reads and (options.data_dir or options.download):
        specs = _placed(specs, options)
    if options.json:
        print(json.dumps([_summary(spec) for spec in specs], indent=1))
    elif options.action == "list":
        for spec in specs:
            size = f"{spec.data.num_classes} classes"
            print(f"{spec.name:20} v{spec.version} {size:>12}  {spec.metric:14}  {spec.description}")
            print(f"{'':20}    {', '.join(spec.protocols)}")
    elif options.action == "validate":
        for spec in specs:
            checked = _look(spec, options)
            print(f"{spec.name}: valid{checked}")
            for protocol in spec.protocols:
                print(f"    {protocol:10} fingerprint {_stated(spec, protocol).fingerprint(protocol)}")
    elif options.name is None:
        raise UserError(f"tasks {options.action}: name a task")
    elif options.action == "show":
        print(specs[0].model_dump_json(indent=1))
    else:
        from cskd_bench.data.open import open_split
        from cskd_bench.transfer.subsets import index_lists

        if not {"kshot", "lowlabel"} & set(specs[0].protocols):
            raise UserError(f"tasks indices: {specs[0].name} has neither kshot nor lowlabel, so nothing is drawn")
        labels = open_split(specs[0].data, specs[0].data.train).labels
        print(json.dumps({"task": specs[0].name, "seed": options.seed, **index_lists(specs[0], labels, options.seed)}))
    return 0


def _stated(spec: "TaskSpec", protocol: str) -> "TaskSpec":
    """Return the task with the teacher of its fine-tuning called as records call it; UserError without its weights."""
    if spec.finetune.teacher is None:
        return spec
    from cskd_bench.transfer.teaching import state_teacher

    return state_teacher(spec, protocol)


def _summary(spec: "TaskSpec") -> dict[str, Any]:
    """Return what `list` says of a task, for JSON."""
    told = spec.model_dump(mode="json", include={"name", "version", "description", "protocols", "metric", "group"})
    return {**told, "classes": spec.data.num_classes}


def _placed(specs: "list[TaskSpec]", options: argparse.Namespace) -> "list[TaskSpec]":
    """Find, unpack or download the tasks' images; UserError with the first reason why they cannot be had."""
    from cskd_bench.transfer.placing import place_tasks

    if options.download and options.name is None:
        raise UserError(f"tasks {options.action} --download: name a task")
    placed = place_tasks(specs, options.data_dir, fetch=options.download)
    for one in placed:
        if one.problem:
            raise UserError(one.problem)
        if one.done:
            print(one.done)
    return [one.spec for one in placed]


def _look(spec: "TaskSpec", options: argparse.Namespace) -> str:
    """Say what the images are: of those named, and of one task's own root where that is on this machine."""
    from cskd_bench.data.sources import data_path

    here = options.name is not None and spec.data.root and data_path(spec.data.root).exists()
    if not (options.data_dir or options.download or here):
        return ""
    from cskd_bench.transfer.checks import check_batch
    from cskd_bench.transfer.run import look_at_data

    said = look_at_data(spec)
    for protocol in spec.protocols:
        check_batch(spec, protocol)
    return f", {said}"

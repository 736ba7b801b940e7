"""The command line: verbs only; each hands over to the room that does the work."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from cskd_bench import __version__
from cskd_bench.errors import UserError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 75  # a checkpoint was written; the same command goes on


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; bad input is one sentence and exit code 2, an interruption that can be resumed 75."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"cskd-bench: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("cskd-bench: interrupted; start again to continue", file=sys.stderr)
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Describe the verbs; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="cskd-bench", description="Does distilling a CNN's spatial knowledge into a Vision Transformer pay off?"
    )
    parser.add_argument("--version", action="version", version=f"cskd-bench {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in (
        _add_quickstart,
        _add_pretrain,
        _add_transfer,
        _add_bench,
        _add_report,
        _add_records,
        _add_export,
        _add_explain,
        _add_doctor,
        _add_tasks,
        _add_configs,
    ):
        add(verbs)
    return parser


Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_places(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")


def _add_quickstart(verbs: Verbs) -> None:
    verb = verbs.add_parser("quickstart", help="all methods on data that ships inside dependencies, in minutes")
    verb.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to fill (default: quickstart)")
    verb.add_argument("--parallel", type=_positive, default=os.cpu_count() or 1, help="processes (default: all cores)")
    verb.set_defaults(run=_quickstart)


def _quickstart(options: argparse.Namespace) -> int:
    from cskd_bench.bench.quickstart import quickstart

    return 0 if quickstart(options.output, options.parallel) else EXIT_INTERRUPTED


def _add_pretrain(verbs: Verbs) -> None:
    verb = verbs.add_parser("pretrain", help="pretrain one student from a TOML; resumes when started again")
    verb.add_argument("config", type=Path, help="a TOML, as in configs/; shipped ones by name")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. recipe.epochs=100")
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    verb.add_argument("--dry-run", action="store_true", help="print steps, FLOPs, memory and disk need, and stop")
    _add_places(verb)
    verb.set_defaults(run=_pretrain)


def _pretrain(options: argparse.Namespace) -> int:
    from cskd_bench.config import load_config
    from cskd_bench.schema import shipped_file

    config = load_config(shipped_file("configs", options.config), [*options.set, *_data_root(options)])
    if options.dry_run:
        from rich.console import Console

        from cskd_bench.engine.estimate import estimate, show

        show(estimate(config), Console())
        return 0
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.engine.pretrain import pretrain
    from cskd_bench.engine.training import Interrupted

    try:
        with joined_ranks() as ranks:
            record = pretrain(config, options.runs, options.results, ranks)
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if ranks.is_main:
        print(f"{config.name}: top-1 {100 * record.value:.2f} %  ({options.results / 'records' / record.id}.json)")
    return 0


def _add_transfer(verbs: Verbs) -> None:
    verb = verbs.add_parser("transfer", help="run downstream tasks on a checkpoint")
    verb.add_argument("--task", action="append", required=True, help="a name as in `tasks list`, or a TOML; repeatable")
    verb.add_argument("--checkpoint", type=Path, required=True, help="a run folder, or a weights file with --model")
    verb.add_argument("--model", default="", help="timm name of a weights file's architecture")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw", help="which weights of a run (default: raw)")
    verb.add_argument("--protocol", action="append", default=[], help="default: all of the task; repeatable")
    verb.add_argument("--seed", type=int, action="append", default=[], help="default: 0; repeatable")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the task")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    verb.add_argument("--workers", type=int, default=4, help="loader processes (default: 4)")
    verb.add_argument("--dry-run", action="store_true", help="show what would run on which data, and stop")
    _add_places(verb)
    verb.set_defaults(run=_transfer)


def _transfer(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task

    overrides = [*options.set, *_data_root(options)]
    specs = [load_task(name, options.tasks_dir, overrides) for name in options.task]
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.engine.training import Interrupted
    from cskd_bench.transfer.run import describe, expand, plan, transfer

    chosen = {"results": options.results, "model": options.model, "weights": options.weights}
    cells = expand(specs, options.protocol, options.seed or [0])
    if options.dry_run:
        for spec, protocol, seed in cells:
            print(describe(plan(spec, protocol, options.checkpoint, seed, **chosen)))
        return 0
    try:
        with joined_ranks() as ranks:
            here = {"work": options.runs / "transfer", "ranks": ranks, "workers": options.workers}
            for spec, protocol, seed in cells:
                if protocol == "detect":
                    from cskd_bench.detection.run import run_detection

                    record = run_detection(spec, options.checkpoint, seed, **chosen, **here)
                else:
                    record = transfer(spec, protocol, options.checkpoint, seed, **chosen, **here)
                if ranks.is_main:
                    score = f"{record.task.metric} {100 * record.value:.2f} %"
                    print(f"{spec.name} {protocol} seed {seed}: {score}  ({record.id}.json)")
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _add_bench(verbs: Verbs) -> None:
    verb = verbs.add_parser("bench", help="run a whole plan: methods x students x tasks x protocols x seeds")
    verb.add_argument("plan", type=Path, help="a TOML, as in configs/benchmarks/")
    verb.add_argument("--dry-run", action="store_true", help="show every cell with its state, size and cost, and stop")
    verb.add_argument("--executor", choices=("local", "ray", "slurm"), default="local", help="default: local")
    verb.add_argument("--parallel", type=_positive, default=1, help="cells at a time (default: 1)")
    verb.add_argument("--threads", type=int, default=0, help="CPU threads a cell (default: torch's own)")
    verb.add_argument("--gpus", type=float, default=0, help="GPUs a cell, under ray (0.5: two share one) and slurm")
    verb.add_argument("--ray-address", default="", help="a Ray cluster (auto, or HOST:PORT); default: one started here")
    verb.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="e.g. slurm_partition=gpu")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override every pretraining")
    _add_places(verb)
    verb.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cskd_bench.bench.plan import expand, load_plan, placed
    from cskd_bench.schema import apply_overrides, shipped_file

    file = shipped_file("configs", options.plan)
    cells = expand(load_plan(file), file, options.tasks_dir, options.set)
    cells = placed(cells, options.runs, options.results, options.tasks_dir)
    from cskd_bench.bench.executors import Executor, Local, Ray, Slurm
    from cskd_bench.bench.work import Places

    places = Places(options.runs, options.results)
    if options.dry_run:
        from cskd_bench.bench.dryrun import show_plan

        show_plan(cells, places, Console())
        return 0
    from cskd_bench.bench.runner import run_plan

    parallel, threads = options.parallel, options.threads
    executor: Executor
    if options.executor == "ray":
        executor = Ray(parallel, threads, options.gpus, options.ray_address)
    elif options.executor == "slurm":
        executor = Slurm(threads, options.gpus, options.runs / "slurm", apply_overrides({}, options.slurm))
    else:
        executor = Local(parallel)
    outcome = run_plan(cells, places, executor, parallel=parallel, threads=threads, console=Console())
    if outcome.interrupted:
        print("cskd-bench: interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 1 if outcome.failures else 0


def _add_report(verbs: Verbs) -> None:
    verb = verbs.add_parser("report", help="tables, figures and one offline page from the records")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    verb.add_argument("--output", type=Path, help="where to write (default: the results folder)")
    verb.add_argument("--include-dirty", action="store_true", help="use records made with uncommitted changes")
    verb.add_argument("--check", action="store_true", help="only check that LEADERBOARD.md is what the records say")
    verb.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from cskd_bench.report.facade import build_report, check_leaderboard

    if options.check:
        check_leaderboard(options.results, options.results / "LEADERBOARD.md")
        return 0
    report = build_report(options.results, options.output or options.results, include_dirty=options.include_dirty)
    report.show()
    for path in report.files.values():
        print(path)
    return 0


def _add_records(verbs: Verbs) -> None:
    verb = verbs.add_parser("records", help="verify a records folder: schema, hashes, names, duplicates")
    verb.add_argument("action", choices=("verify",))
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    verb.set_defaults(run=_records)


def _records(options: argparse.Namespace) -> int:
    from cskd_bench.report.verify import verify_records

    folder = options.results / "records"
    problems = verify_records(folder)
    for problem in problems:
        print(f"{problem.file}: {problem.reason}")
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    print(f"{folder}: {found} in {len([*folder.glob('*.json')])} records")
    return 1 if problems else 0


def _add_export(verbs: Verbs) -> None:
    verb = verbs.add_parser("export", help="write a run for timm or ONNX, checked against its native logits")
    verb.add_argument("--checkpoint", type=Path, required=True, help="a finished run folder")
    verb.add_argument("--to", choices=("timm", "onnx"), required=True)
    verb.add_argument("--output", type=Path, required=True, help="a new folder (timm) or file (onnx)")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw")
    verb.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from cskd_bench.export import export_onnx, export_timm

    write = export_timm if options.to == "timm" else export_onnx
    print(write(options.checkpoint, options.output, options.weights))
    return 0


def _add_explain(verbs: Verbs) -> None:
    verb = verbs.add_parser("explain", help="draw what teacher and student see in one image")
    verb.add_argument("--checkpoint", type=Path, required=True, help="a finished run folder")
    verb.add_argument("--image", type=Path, required=True, help="an image file")
    verb.add_argument("--output", type=Path, default=Path("explain"), help="folder for the pictures (default: explain)")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw")
    verb.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from cskd_bench.explain.run import explain

    for path in explain(options.checkpoint, options.image, options.output, options.weights):
        print(path)
    return 0


def _add_doctor(verbs: Verbs) -> None:
    verb = verbs.add_parser("doctor", help="check this machine and a data set, and say what to do")
    verb.add_argument("--config", type=Path, help="a pretraining TOML: checks its data, teacher and disk need")
    verb.add_argument("--dataset", default="", help="what the data set should be, e.g. imagenet1k, cifar100, coco")
    verb.add_argument("--data-dir", default="", help="the data set's folder")
    verb.add_argument("--counts-only", action="store_true", help="do not decode every image")
    verb.add_argument("--threads", type=_positive, default=1, help="threads that decode (default: 1)")
    verb.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    verb.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cskd_bench.doctor.examine import examine

    fine = examine(
        config=options.config,
        dataset=options.dataset,
        data_dir=options.data_dir,
        runs=options.runs,
        decode=not options.counts_only,
        threads=options.threads,
        console=Console(),
    )
    return 0 if fine else 1


def _add_tasks(verbs: Verbs) -> None:
    verb = verbs.add_parser("tasks", help="list, show or validate downstream tasks")
    verb.add_argument(
        "action",
        choices=("list", "show", "validate", "indices"),
        help="indices: which training images k-shot and low-label use, as JSON",
    )
    verb.add_argument("name", nargs="?", help="a task's name or TOML")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    verb.add_argument("--data-dir", help="the data set's folder: validate then checks the images too")
    verb.add_argument("--seed", type=int, default=0, help="of indices (default: 0)")
    verb.set_defaults(run=_tasks)


def _tasks(options: argparse.Namespace) -> int:
    from cskd_bench.task import load_task, task_files

    files = task_files(options.tasks_dir)
    names = [options.name] if options.name else sorted(files)
    specs = [load_task(name, options.tasks_dir, _data_root(options)) for name in names]
    if options.action == "list":
        for spec in specs:
            size = f"{spec.data.num_classes} classes"
            print(f"{spec.name:20} v{spec.version} {size:>12}  {spec.metric:14}  {spec.description}")
            print(f"{'':20}    {', '.join(spec.protocols)}")
    elif options.action == "validate":
        for spec in specs:
            checked = ""
            if options.data_dir:
                from cskd_bench.transfer.checks import check_data

                checked = f", {check_data(spec)}"
            print(f"{spec.name}: valid, fingerprint {spec.fingerprint()}{checked}")
    elif options.name is None:
        raise UserError(f"tasks {options.action}: name a task")
    elif options.action == "show":
        print(specs[0].model_dump_json(indent=1))
    else:
        import json

        from cskd_bench.transfer.cell import open_split
        from cskd_bench.transfer.subsets import index_lists

        labels = open_split(specs[0].data, specs[0].data.train).labels
        print(json.dumps({"task": specs[0].name, "seed": options.seed, **index_lists(specs[0], labels, options.seed)}))
    return 0


def _add_configs(verbs: Verbs) -> None:
    verb = verbs.add_parser("configs", help="list the shipped configurations")
    verb.set_defaults(run=_configs)


def _configs(options: argparse.Namespace) -> int:
    from cskd_bench.schema import shipped

    folder = shipped("configs")
    for file in sorted(folder.rglob("*.toml")):
        print(file.relative_to(folder))
    return 0


def _data_root(options: argparse.Namespace) -> list[str]:
    return [f'data.root="{Path(options.data_dir).resolve().as_posix()}"'] if options.data_dir else []


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

"""`cskd-bench bench`: run a whole plan: methods x students x tasks x protocols x seeds."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import EXIT_INTERRUPTED, Verbs, add_places, positive, share, whole

if TYPE_CHECKING:
    from cskd_bench.bench.executor import Executor
    from cskd_bench.bench.plan import Cells
    from cskd_bench.bench.runner import BenchResult, Share

STATUS: Final = "status"  # instead of a plan; a file of that name is ./status


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("bench", help="run a whole plan: methods x students x tasks x protocols x seeds")
    verb.add_argument(
        "plan", help="a TOML, as in configs/benchmarks/; or the word status: how the benches of --runs go"
    )
    verb.add_argument("--dry-run", action="store_true", help="list the cells with state, size and cost, and stop")
    verb.add_argument("--json", action="store_true", help="with status: print one JSON object")
    verb.add_argument(
        "--register",
        action="store_true",
        help="write the plan's contrasts to RESULTS/plans, as every bench does first, and stop",
    )
    for option, metavar, text in (
        ("--only", "PATTERN", "run cells whose names match, e.g. '*cskd*', and what they need"),
        ("--methods", "LIST", "run cells of these methods alone, by label or kind"),
        ("--seeds", "LIST", "run cells of these seeds alone"),
        ("--tasks", "LIST", "run transfers of these tasks alone, and the pretraining that they need"),
        ("--first", "PATTERN", "run cells whose names match, and what they need, before the others"),
    ):
        verb.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    verb.add_argument(
        "--within",
        type=share,
        metavar="MINUTES",
        help="start no cell that would take longer than is left of them, by finished ones like it (exit code 75)",
    )
    verb.add_argument("--executor", choices=("local", "ray", "slurm"), default="local", help="default: local")
    verb.add_argument("--parallel", type=positive, default=1, help="cells at a time (default: 1)")
    verb.add_argument("--threads", type=whole, help="CPU threads per cell (default: the cores, shared)")
    verb.add_argument("--gpus", type=share, help="GPUs per cell (0.5: two share one; from 2 on: torchrun)")
    verb.add_argument(
        "--ray-address", default="", help="a Ray cluster (auto, HOST:PORT, local); default: RAY_ADDRESS, or one started"
    )
    verb.add_argument("--ray-runtime-env", type=Path, metavar="FILE", help="TOML or JSON: what Ray ships to its nodes")
    verb.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter for submitit, e.g. slurm_partition=gpu",
    )
    verb.add_argument("--time", default="", help="of a Slurm job: MINUTES, HH:MM:SS or D-HH:MM (default: one day)")
    verb.add_argument("--partition", default="", help="of Slurm")
    verb.add_argument("--account", default="", help="of Slurm")
    verb.add_argument("--tasks-dir", type=Path, help="a folder with task files of your own")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the students' pretraining, e.g. recipe.epochs=5",
    )
    verb.add_argument(
        "--bank", type=Path, help="folder of label banks: the teacher labels each view once for all methods"
    )
    verb.add_argument("--keep-weights", action="store_true", help="keep fine-tuned students, in RUNS/transfer/RECORD")
    add_places(verb)
    verb.set_defaults(run=_run)


def _show_contrasts(registered: Path) -> None:
    """Print what a registered plan asks."""
    from cskd_bench.report.plans import read_plan

    plan = read_plan(registered)
    print(f"{registered}: registered on {plan.registered[:10]}, for seeds {', '.join(map(str, plan.seeds))}")
    for contrast in plan.contrasts:
        band = "" if contrast.band is None else f", band ±{100 * contrast.band:g} points"
        print(f"  {contrast.family}: {contrast.name} on {contrast.where}{band}")


def _run(options: argparse.Namespace) -> int:
    began = time.monotonic()  # before torch is loaded
    from rich.console import Console

    if options.plan == STATUS:
        return _show_status(options)
    if options.json:
        raise UserError(f"--json is for `bench {STATUS}`; leave it out")
    _check_executor(options)
    from cskd_bench.bench.asked import Asked, match_names
    from cskd_bench.bench.plan import expand, load_plan, place_cells
    from cskd_bench.schema import shipped_file

    file = shipped_file("configs", Path(options.plan))
    cells = expand(load_plan(file), file, options.tasks_dir, options.set)
    cells = place_cells(cells, options.runs, options.results, options.tasks_dir)
    asked = Asked(options.only, options.methods, options.seeds, options.tasks).choose(cells)
    first = match_names("--first", options.first, cells)
    from cskd_bench.bench.work import Places

    places = Places(options.runs, options.results, options.keep_weights)
    from cskd_bench.bench.registration import register_plan, resolve_plan

    if not options.dry_run:
        registered = register_plan(file, options.results, options.tasks_dir, options.set)
        if options.register:
            _show_contrasts(registered) if registered else print(f"{file}: has no contrasts to register")
            return 0
    if options.dry_run:
        from cskd_bench.bench.dryrun import show_plan

        resolve_plan(load_plan(file), file, options.tasks_dir, options.set)  # refuses what could not be registered
        show_plan(cells, places, Console(), options.bank, asked)
        return 0
    from cskd_bench.bench.runner import run_plan
    from cskd_bench.bench.state import refuse_unwritable_places

    refuse_unwritable_places(cells, places)
    share = _share(options)
    if options.executor == "ray":
        executor, share = _ray(options, share, cells)
    else:
        executor = _executor(options, share, cells)
    outcome = run_plan(
        cells,
        places,
        executor,
        share,
        console=Console(),
        banks=options.bank,
        only=asked,
        first=first,
        plan=file.stem,
        until=None if options.within is None else began + 60 * options.within,
    )
    return _end(outcome, options.within)


def _end(outcome: "BenchResult", minutes: float | None) -> int:
    """Say why cells are left, where some are, and return the exit code."""
    if outcome.interrupted:
        print("cskd-bench: interrupted; the same command continues from here", file=sys.stderr)
    elif outcome.left and not outcome.attempts:
        raise UserError(
            f"--within {minutes:g}: too short for any of the {outcome.left} cells that are left, by how long "
            "finished ones like them took; give more minutes"
        )
    elif outcome.left:
        print(
            f"cskd-bench: {outcome.left} of the cells are left, as they would not finish within {minutes:g} minutes; "
            "the same command continues from here",
            file=sys.stderr,
        )
    if outcome.interrupted or outcome.left:
        return EXIT_INTERRUPTED
    return 1 if outcome.failures else 0


def _show_status(options: argparse.Namespace) -> int:
    """Print how the benches of a folder of runs are going."""
    from rich.console import Console

    from cskd_bench.bench.look import as_json, look_at, show

    looks = look_at(options.runs)
    if options.json:
        print(json.dumps(as_json(options.runs, looks), indent=1))
    else:
        console = Console()
        show(options.runs, looks, console if console.is_terminal else Console(width=200))
    return 0


def _share(options: argparse.Namespace) -> "Share":
    """Return what a cell takes: of this machine's cores its part, of a node's what is asked for."""
    import os

    from cskd_bench.bench.resources import Resources
    from cskd_bench.bench.runner import Share

    threads, parallel = options.threads, options.parallel
    if threads is None:
        several = options.executor == "local" and parallel > 1
        threads = max(1, len(os.sched_getaffinity(0)) // parallel) if several else 0
    gpus = options.gpus
    if gpus is None and options.executor == "slurm":
        from cskd_bench.bench.slurm_options import default_gpus

        gpus = default_gpus(_slurm_parameters(options))
    return Share(parallel, Resources(threads, gpus or 0))


def _slurm_parameters(options: argparse.Namespace) -> dict[str, str | int]:
    from cskd_bench.bench.slurm_options import parameters
    from cskd_bench.schema import apply_overrides

    given = apply_overrides({}, options.slurm)
    return parameters(options.time, options.partition, options.account, given)


def _executor(options: argparse.Namespace, share: "Share", cells: "Cells") -> "Executor":
    takes = share.resources
    if options.executor == "slurm":
        from cskd_bench.bench.slurm import Slurm

        return Slurm(takes, options.runs / "slurm", _slurm_parameters(options))
    from cskd_bench.bench.local import Local

    return Local(share.parallel, takes.gpus, cells.all(), cells.teacher_takes.gpus if cells.teacher else 0.0)


def _ray(options: argparse.Namespace, share: "Share", cells: "Cells") -> "tuple[Executor, Share]":
    """Return a Ray cluster, and what a cell takes there: it depends on the cluster's GPUs."""
    from dataclasses import replace

    from cskd_bench.bench.ray_cluster import Ray
    from cskd_bench.bench.ray_start import RayPlace

    place = RayPlace(options.ray_address, options.ray_runtime_env)
    shared = [folder for folder in (options.runs, options.results, options.bank) if folder]
    ray = Ray(share.parallel, share.resources.threads, options.gpus, cells.teacher_takes, place, shared)
    return ray, replace(share, resources=ray.takes)


def _check_executor(options: argparse.Namespace) -> None:
    """Refuse an option that the chosen executor would ignore."""
    for option, given, executors in (
        ("--ray-address", options.ray_address, ("ray",)),
        ("--ray-runtime-env", options.ray_runtime_env, ("ray",)),
        ("--slurm", options.slurm, ("slurm",)),
        ("--time", options.time, ("slurm",)),
        ("--partition", options.partition, ("slurm",)),
        ("--account", options.account, ("slurm",)),
    ):
        if given and options.executor not in executors:
            raise UserError(f"{option} is for --executor {' or '.join(executors)}, not for {options.executor}")
    from cskd_bench.bench.resources import MOST_THREADS, refuse_share

    if (options.threads or 0) > MOST_THREADS:
        raise UserError(f"--threads {options.threads}: a cell takes at most {MOST_THREADS}")
    gpus = options.gpus or 0
    if why := refuse_share(gpus):
        raise UserError(f"--gpus {gpus:g}: {why}")
    if options.executor == "slurm" and not float(gpus).is_integer():
        raise UserError(f"--gpus {gpus:g}: Slurm gives whole GPUs")

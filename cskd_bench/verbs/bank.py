"""`cskd-bench bank`: label a run's views once, ahead of training."""

import argparse
import sys
from pathlib import Path

from cskd_bench.errors import Interrupted, UserError
from cskd_bench.verbs.common import EXIT_INTERRUPTED, Verbs, add_method, asked_config, is_count, positive


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("bank", help="label a run's views once, for every method and schedule of one teacher")
    actions = verb.add_subparsers(title="actions", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="label views; what is there already is kept")
    build.add_argument("config", type=Path, help="the run's TOML; method kd adds soft targets")
    add_method(build)
    build.add_argument("--output", type=Path, required=True, help="the bank's folder")
    build.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. recipe.epochs=100")
    build.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    build.add_argument("--epochs", type=_span, metavar="A:B", help="only epochs A to B - 1, counted from 0")
    build.add_argument("--shard", type=_share, default=(1, 1), metavar="I/N", help="the I-th of N parts, from 1")
    build.set_defaults(run=_build)
    verify = actions.add_parser("verify", help="check every byte")
    verify.add_argument("bank", type=Path)
    verify.set_defaults(run=_verify)
    info = actions.add_parser("info", help="what it holds, as JSON")
    info.add_argument("bank", type=Path)
    info.set_defaults(run=_info)
    agreement = actions.add_parser("agreement", help="how often its labels name the class of the view's image, as JSON")
    agreement.add_argument("bank", type=Path)
    agreement.add_argument("config", type=Path, help="the run's TOML; its training images have the classes")
    add_method(agreement)
    agreement.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. seed=2")
    agreement.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    agreement.add_argument("--output", type=Path, help="a new file to keep them in, e.g. results/teachers/a.json")
    agreement.set_defaults(run=_agreement)
    flips = actions.add_parser("flips", help="what each teacher.precision changes in labels and in speed, here")
    flips.add_argument("config", type=Path, help="the run's TOML, whose teacher and views are measured")
    add_method(flips)
    flips.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. teacher.image_size=128")
    flips.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    flips.add_argument("--views", type=positive, default=256, help="how many of the run's first views (default: 256)")
    flips.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, one thread")
    flips.add_argument("--output", type=Path, help="a new JSON file to keep the measurement in")
    flips.set_defaults(run=_flips)


def _build(options: argparse.Namespace) -> int:
    from cskd_bench.bank.build import build_bank
    from cskd_bench.bank.claim import launcher_rank
    from cskd_bench.device import default_device
    from cskd_bench.memory import keep_memory
    from cskd_bench.stopping import stop_signals

    config = asked_config(options)
    device = default_device()
    if device.type == "cpu":
        keep_memory()
    try:
        with stop_signals() as stop:
            built = build_bank(config, options.output, options.epochs, options.shard, device, stop)
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    rank, world = launcher_rank()
    rate = built.views / built.seconds if built.views else 0
    kept = f", {built.shards_before} shards were there already" if built.shards_before else ""
    by = f" by rank {rank} of {world}" if world > 1 else ""
    done = f"{built.views:,} views in {built.shards} shards{by}, {rate:,.0f} views/s{kept}\n"
    print(f"{options.output}: {done}", end="", flush=True)  # in one piece: ranks share a terminal
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cskd_bench.bank.store import describe_bank, verify_bank

    problems = verify_bank(options.bank)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{options.bank}: damaged; remove these files, and bank build makes them again")
        return 1
    about = describe_bank(options.bank)
    complete, declared = len(about["complete_epochs"]), about["manifest"]["epochs"]
    print(f"{options.bank}: no damage; {complete} of {declared} epochs labelled")
    return 0


def _info(options: argparse.Namespace) -> int:
    import json

    from cskd_bench.bank.store import describe_bank

    print(json.dumps(describe_bank(options.bank), indent=1))
    return 0


def _agreement(options: argparse.Namespace) -> int:
    import json

    from cskd_bench.advice.teacher import measure_teacher

    config = asked_config(options)
    if options.output is not None and options.output.exists():
        raise UserError(f"{options.output}: exists already; measurements are not overwritten, name a new file")
    measured = measure_teacher(options.bank, config)
    if options.output is not None:
        measured.write(options.output)
    print(json.dumps(measured.model_dump(include={"views", "global_top1", "local_top1", "local_is_global"}), indent=1))
    return 0


def _flips(options: argparse.Namespace) -> int:
    from cskd_bench.speed.precision import measure_precisions

    config = asked_config(options)
    measure_precisions(config, options.views, options.output, options.clock)
    return 0


def _span(text: str) -> range:
    first, colon, end = text.partition(":")
    if not (colon and is_count(first) and is_count(end)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected A:B, two whole numbers, for epochs A to B - 1")
    return range(int(first), int(end))


def _share(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and is_count(part) and is_count(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N, two whole numbers, for the I-th of N parts")
    return int(part), int(parts)

"""`cskd-bench speed`: ratios against yardsticks, measured side by side on this machine."""

import argparse
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import Verbs, add_method, asked_config, positive


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("speed", help="measure one part against its yardsticks on this machine")
    verb.add_argument("--part", choices=("step", "teacher", "data", "bank", "host", "coco", "report"), required=True)
    verb.add_argument("--output", type=Path, help="a new JSON file to keep the measurement in")
    verb.add_argument("--student", default="deit_tiny_patch16_224", help="step: timm name (random weights)")
    verb.add_argument("--teacher", default="regnety_160", help="step, teacher: timm name (random weights)")
    verb.add_argument("--batch", type=positive, help="images a step (default: 8 on a CPU, 256 on a GPU)")
    verb.add_argument("--rounds", type=positive, help="paired rounds, at least 3 but for coco (default: 9; coco: 1)")
    verb.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, one thread")
    verb.add_argument("--compile", action="store_true", help="step, teacher: torch.compile both sides")
    verb.add_argument("--precision", choices=("fp32", "bf16"), help="step (default: fp32 on a CPU, bf16 on a GPU)")
    methods = "step: these and supervised instead of the yardsticks; all, or names with commas"
    verb.add_argument("--methods", default="", metavar="NAMES", help=methods)
    verb.add_argument("--images", type=Path, help="data: a folder of JPEG files")
    verb.add_argument("--objects", type=positive, help="coco: objects of the data set (default: 860,000, as COCO has)")
    verb.add_argument("--config", type=Path, help="bank: the run whose teacher and views are measured")
    add_method(verb)
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override --config")
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root of --config)")
    verb.add_argument("--results", type=Path, default=Path("results"), help="report: folder of records")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.speed.run import run_speed

    config = None
    if (options.set or options.data_dir or options.method) and not options.config:
        raise UserError("--set, --method and --data-dir change a run's configuration: name it with --config")
    if options.config:
        config = asked_config(options)
    run_speed(
        options.part,
        options.output,
        student=options.student,
        teacher=options.teacher,
        batch=options.batch,
        rounds=options.rounds,
        clock=options.clock,
        compiled=options.compile,
        precision=options.precision,
        methods=options.methods,
        images=options.images,
        objects=options.objects,
        config=config,
        results=options.results,
    )
    return 0

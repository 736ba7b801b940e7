"""`cskd-bench quickstart`: all methods on data that ships inside dependencies, in minutes."""

import argparse
import os
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import EXIT_INTERRUPTED, Verbs, positive


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("quickstart", help="all methods on data that ships inside dependencies, in minutes")
    verb.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to fill (default: quickstart)")
    verb.add_argument("--parallel", type=positive, default=os.cpu_count() or 1, help="processes (default: all cores)")
    verb.add_argument(
        "--seeds",
        type=int,
        choices=range(1, 6),
        default=5,
        metavar="N",
        help="seeds of a method, 1 to 5 (default: 5)",
    )
    verb.add_argument("--no-detection", action="store_true", help="leave the detection part out")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.output.exists() and not options.output.is_dir():
        raise UserError(f"{options.output}: is a file; name a folder with --output")
    from cskd_bench.bench.quickstart import quickstart

    outcome = quickstart(options.output, options.parallel, not options.no_detection, options.seeds)
    if outcome.interrupted:
        return EXIT_INTERRUPTED
    return 1 if outcome.failures else 0

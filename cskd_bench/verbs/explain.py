"""`cskd-bench explain`: draw what teacher and student see in one image."""

import argparse
from pathlib import Path

from cskd_bench.verbs.common import Verbs, add_checkpoint


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("explain", help="draw what teacher and student see in one image")
    add_checkpoint(verb)
    verb.add_argument("--image", type=Path, required=True, help="an image file")
    verb.add_argument("--output", type=Path, default=Path("explain"), help="folder for the pictures (default: explain)")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.explain.run import explain

    for path in explain(options.checkpoint, options.image, options.output, options.weights, model=options.model):
        print(path)
    return 0

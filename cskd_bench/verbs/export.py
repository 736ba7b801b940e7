"""`cskd-bench export`: write a run for timm or ONNX, checked against its native logits."""

import argparse
from pathlib import Path

from cskd_bench.verbs.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("export", help="write a run for timm or ONNX, checked against its native logits")
    verb.add_argument("--checkpoint", type=Path, required=True, help="a finished run folder")
    verb.add_argument("--to", choices=("timm", "onnx"), required=True)
    verb.add_argument("--output", type=Path, required=True, help="a new folder (timm) or file (onnx)")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.export import export_onnx, export_timm

    write = export_timm if options.to == "timm" else export_onnx
    print(write(options.checkpoint, options.output, options.weights))
    return 0

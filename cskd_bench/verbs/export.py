"""`cskd-bench export`: write a student for timm, the Hugging Face Hub or ONNX, checked against its native logits."""

import argparse
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import Verbs, add_checkpoint


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser(
        "export", help="write a student for timm, the Hub or ONNX, checked against its native logits"
    )
    add_checkpoint(verb)
    verb.add_argument("--to", choices=("timm", "hub", "onnx"), required=True)
    verb.add_argument("--output", type=Path, help="a new folder (timm) or file (onnx)")
    verb.add_argument("--repo", default="", metavar="USER/NAME", help="repository of the Hugging Face Hub (hub)")
    verb.add_argument("--private", action="store_true", help="make the repository private (hub)")
    verb.add_argument(
        "--licence", default="", metavar="ID", help="of the weights, as the Hub names it: apache-2.0, mit"
    )
    verb.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of records, for the model card (default: results)"
    )
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    _check(options)
    from cskd_bench.export.folder import export_timm
    from cskd_bench.export.hub import export_hub
    from cskd_bench.export.onnx_file import export_onnx

    checkpoint, weights, model = options.checkpoint, options.weights, options.model
    if options.to == "onnx":
        print(export_onnx(checkpoint, options.output, weights, model=model))
        return 0
    about = {"model": model, "results": options.results, "licence": options.licence}
    if options.to == "timm":
        print(export_timm(checkpoint, options.output, weights, **about))
    else:
        print(export_hub(checkpoint, options.repo, weights, private=options.private, **about))
    return 0


def _check(options: argparse.Namespace) -> None:
    """UserError for options that --to does not take, or lacks."""
    hub = options.to == "hub"
    if hub and (options.output or not options.repo):
        raise UserError("--to hub: takes --repo USER/NAME, and no --output")
    if not hub and (options.repo or options.private or not options.output):
        raise UserError(f"--to {options.to}: takes --output, and neither --repo nor --private; these are for --to hub")

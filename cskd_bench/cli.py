"""The command line: verbs only; each hands over to the room that does the work."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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
    _add_pretrain(verbs)
    return parser


def _add_places(verb: argparse.ArgumentParser, runs: bool = True) -> None:
    if runs:
        verb.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")


def _add_pretrain(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("pretrain", help="pretrain one student from a TOML; resumes when started again")
    verb.add_argument("config", type=Path, help="a TOML, as in configs/; shipped ones by name")
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. recipe.epochs=100"
    )
    verb.add_argument("--data-dir", help="the data set's folder (sets data.root)")
    _add_places(verb)
    verb.set_defaults(run=_pretrain)


def _pretrain(options: argparse.Namespace) -> int:
    from cskd_bench.config import load_config
    from cskd_bench.engine.distributed import joined_ranks
    from cskd_bench.engine.pretrain import pretrain
    from cskd_bench.engine.training import Interrupted
    from cskd_bench.schema import shipped_file

    overrides = [*options.set, *([f'data.root="{_absolute(options.data_dir)}"'] if options.data_dir else [])]
    config = load_config(shipped_file("configs", options.config), overrides)
    try:
        with joined_ranks() as ranks:
            record = pretrain(config, options.runs, options.results, ranks)
    except Interrupted as stopped:
        print(f"cskd-bench: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if ranks.is_main:
        print(f"{config.name}: top-1 {100 * record.value:.2f} %  ({options.results / 'records' / record.id}.json)")
    return 0


def _absolute(path: str) -> str:
    return str(Path(path).resolve()).replace(os.sep, "/")


if __name__ == "__main__":
    sys.exit(main())

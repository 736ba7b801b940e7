"""`cskd-bench report`: tables, figures and one offline page from the records."""

import argparse
from pathlib import Path

from cskd_bench.verbs.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("report", help="tables, figures and one offline page from the records")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    verb.add_argument("--output", type=Path, help="where to write (default: the results folder)")
    verb.add_argument("--include-dirty", action="store_true", help="use records made with uncommitted changes")
    verb.add_argument("--check", action="store_true", help="only check that LEADERBOARD.md is what the records say")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.report.facade import build_report, check_leaderboard

    if options.check:
        check_leaderboard(options.results, options.results / "LEADERBOARD.md")
        return 0
    report = build_report(options.results, options.output or options.results, include_dirty=options.include_dirty)
    report.show()
    for path in report.files.values():
        print(path)
    return 0

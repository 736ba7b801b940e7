"""`cskd-bench report`: tables, figures and one offline page from the records."""

import argparse
import os
from pathlib import Path
from typing import Final

from cskd_bench.verbs.common import Verbs

MOST_PROCESSES: Final = 4  # each may hold the side files of one column


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("report", help="tables, figures and one offline page from the records")
    verb.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of records and plans (default: results)"
    )
    verb.add_argument("--output", type=Path, help="where to write (default: the results folder)")
    verb.add_argument("--include-dirty", action="store_true", help="use records of uncommitted or unknown code too")
    verb.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a Markdown page whose parts between marks are written again; may be given several times",
    )
    verb.add_argument("--check", action="store_true", help="write nothing; exit code 2 where the report is stale")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.report.build import build_report, check_report

    processes = min(MOST_PROCESSES, os.cpu_count() or 1)
    include_dirty, into = options.include_dirty, options.into
    if options.check:
        check_report(options.results, options.output, include_dirty=include_dirty, into=into, processes=processes)
        return 0
    output = options.output or options.results
    report = build_report(options.results, output, include_dirty=include_dirty, into=into, processes=processes)
    report.show()
    for path in report.files.values():
        print(path)
    return 0

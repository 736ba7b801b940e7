"""`cskd-bench records`: verify a records folder: schema, hashes, names, duplicates."""

import argparse
from pathlib import Path

from cskd_bench.verbs.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("records", help="verify a records folder: schema, hashes, names, duplicates")
    verb.add_argument("action", choices=("verify",))
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.report.verify import verify_records

    folder = options.results / "records"
    problems = verify_records(folder)
    for problem in problems:
        print(f"{problem.file}: {problem.reason}")
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    print(f"{folder}: {found} in {len([*folder.glob('*.json')])} records")
    return 1 if problems else 0

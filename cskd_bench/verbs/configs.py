"""`cskd-bench configs`: list the shipped configurations."""

import argparse

from cskd_bench.verbs.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("configs", help="list the shipped configurations")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.schema import shipped

    folder = shipped("configs")
    for file in sorted(folder.rglob("*.toml")):
        print(file.relative_to(folder))
    return 0

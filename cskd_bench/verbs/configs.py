"""`cskd-bench configs`: list the shipped configurations, each with the first line of its comment."""

import argparse

from cskd_bench.verbs.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("configs", help="list the shipped configurations")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.schema import shipped

    folder = shipped("configs")
    files = sorted(folder.rglob("*.toml"))
    width = max(len(str(file.relative_to(folder))) for file in files)
    for file in files:
        about = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        print(f"{file.relative_to(folder)!s:{width}}  {about}")
    return 0

"""`cskd-bench records`: verify a records folder or list its files, or run a record's cell again and compare."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cskd_bench.errors import UserError
from cskd_bench.verbs import pretrain, transfer
from cskd_bench.verbs.common import EXIT_INTERRUPTED, Verbs, data_root


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("records", help="verify a folder of records, write its manifest, or repeat a recorded run")
    actions = verb.add_subparsers(title="actions", required=True, metavar="ACTION")
    verify = actions.add_parser(
        "verify", help="name every problem of a folder of records; exit code 1 where there is one"
    )
    verify.set_defaults(run=_verify)
    manifest = actions.add_parser(
        "manifest", help="write the SHA-256 of every record and side file to RESULTS/records/MANIFEST"
    )
    manifest.set_defaults(run=_manifest)
    rerun = actions.add_parser(
        "rerun", help="repeat a recorded run, its pretraining first, and say whether it reproduces"
    )
    rerun.add_argument("record", help="a record's id, the start of it, or its file")
    rerun.add_argument("--output", type=Path, default=Path("rerun"), help="where it runs, and resumes (default: rerun)")
    rerun.set_defaults(run=_rerun)
    for action in (verify, manifest, rerun):
        action.add_argument(
            "--results", type=Path, default=Path("results"), help="folder of records (default: results)"
        )


def _verify(options: argparse.Namespace) -> int:
    from cskd_bench.names import on_one_line
    from cskd_bench.report.verify import foreign_records, verify_records

    folder = options.results / "records"
    problems = verify_records(folder)
    for problem in problems:
        print(on_one_line(f"{problem.file}: {problem.reason}"))  # a file name need not be text
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    print(f"{folder}: {found} in {len([*folder.glob('[!.]*.json')])} records")
    if foreign := foreign_records(folder):
        print(f"{foreign} of them hold no settings of ours: what these make of them cannot be recomputed")
    return 1 if problems else 0


def _manifest(options: argparse.Namespace) -> int:
    from cskd_bench.report.manifest import MANIFEST, write_manifest

    folder = options.results / "records"
    print(f"{folder / MANIFEST}: {write_manifest(folder)} files")
    return 0


def _rerun(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cskd_bench.bench.plan import Cells
    from cskd_bench.bench.rerun import compare_again, find_chain, pretraining_again, run_again, show, transfer_again

    given = Path(options.record)
    records = given.parent if given.is_file() else options.results / "records"
    chain = find_chain(records, options.record)
    first = command_options(chain.pretraining.argv)
    start = pretraining_again(chain.pretraining, first.config, [*first.set, *_data_root(first)], first.method)
    cells = Cells(None, [start], [])
    if chain.record is not chain.pretraining:
        asked = command_options(chain.record.argv)
        settings = [*asked.set, *_task_root(asked, chain.record.task.name)]
        cells.transfer.append(transfer_again(chain.record, start.name, asked.task, settings, asked.tasks_dir))
    again = run_again(chain, cells, options.output, Console())
    if again is None:
        print("cskd-bench: interrupted; the same command continues from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    compared = compare_again(chain, records, again, options.output / "results" / "records")
    show(compared, Console())
    return 1 if compared.verdict == "not confirmed" else 0


def _data_root(options: argparse.Namespace) -> list[str]:
    """Return a command's --data-dir; where that folder is not here, its name, to be found with the other data."""
    from cskd_bench.schema import override

    if options.data_dir and not Path(options.data_dir).is_dir():
        return [override("data.root", Path(options.data_dir).name)]
    return data_root(options)


def _task_root(options: argparse.Namespace, name: str) -> list[str]:
    """Return the root of a task's images that a command's --data-dir stands for; see `_data_root`."""
    from cskd_bench.schema import override
    from cskd_bench.task import load_task
    from cskd_bench.task_groups import expand_tasks
    from cskd_bench.transfer.placing import found_root

    given = Path(options.data_dir or "")
    names = expand_tasks(options.task, options.tasks_dir)
    tasks = [load_task(task, options.tasks_dir, options.set) for task in names]
    asked = [task for task in tasks if task.name == name]
    if not (options.data_dir and asked and given.exists()):
        return _data_root(options)
    return [override("data.root", found_root(asked[0], given).as_posix())]


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UserError(message or "it asks for help alone")


def command_options(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command's words, whatever started it; UserError where this release cannot read them."""
    parser: argparse.ArgumentParser = _Parser(add_help=False)
    verbs = parser.add_subparsers(required=True)
    for verb in (pretrain, transfer):
        verb.add(verbs)
    try:
        start = next((number for number, word in enumerate(words) if word in ("pretrain", "transfer")), len(words))
        return parser.parse_args(words[start:])
    except UserError as error:
        raise UserError(f"a record's command cannot be run again: {error}: {shlex.join(words)}") from error

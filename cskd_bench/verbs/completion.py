"""Completion of words in a shell, by argcomplete; without that package nothing is completed, and all else works."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and end the process; do nothing for any other caller."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    _add_completers(parser, "")
    argcomplete.autocomplete(parser)


def _add_completers(parser: argparse.ArgumentParser, verb: str) -> None:
    """Say how tasks, methods and protocols are completed; other words are paths, or choices that the parser knows."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                _add_completers(below, verb or name)
        elif action.dest == "task" or (verb, action.dest) in (("tasks", "name"), ("bench", "tasks")):
            action.completer = _listed(_tasks)  # type: ignore[attr-defined]  # argcomplete's own attribute
        elif action.dest == "method" or (verb, action.dest) in (("methods", "name"), ("bench", "methods")):
            action.completer = _listed(_methods)  # type: ignore[attr-defined]
        elif action.dest == "plan":
            action.completer = _plans  # type: ignore[attr-defined]
        elif action.dest == "protocol":
            action.completer = _listed(_protocols)  # type: ignore[attr-defined]


def _plans(prefix: str, **_: object) -> list[str]:
    """Complete a file, or the word that stands for none."""
    from argcomplete.completers import FilesCompleter

    from cskd_bench.verbs.bench import STATUS

    files: list[str] = FilesCompleter()(prefix)
    return [*files, STATUS]


def _listed(names: Callable[[Path | None], Iterable[str]]) -> Callable[..., list[str]]:
    """Complete the last word of a list with commas."""

    def completer(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        before, comma, _word = prefix.rpartition(",")
        return [f"{before}{comma}{name}" for name in names(getattr(parsed_args, "tasks_dir", None))]

    return completer


def _tasks(tasks_dir: Path | None) -> Iterable[str]:
    from cskd_bench.task import task_files
    from cskd_bench.task_groups import GROUPS

    return [*task_files(tasks_dir), *GROUPS]


def _methods(_: Path | None) -> Iterable[str]:
    from cskd_bench.method_registry import method_names

    return method_names()


def _protocols(_: Path | None) -> Iterable[str]:
    from typing import get_args

    from cskd_bench.task import Protocol

    return get_args(Protocol)

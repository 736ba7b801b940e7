"""Where a verb's words go: results, notes and JSON, with --json, --quiet and --verbose."""

import argparse
import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from cskd_bench.launcher import place_of_process

ERROR = "cskd-bench: "  # how the lines of errors begin


def add_output(verb: argparse.ArgumentParser) -> None:
    """Add --json, --quiet and --verbose."""
    verb.add_argument(
        "--json", action="store_true", help="print one JSON object at the end, and nothing else on stdout"
    )
    loud = verb.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="results and errors alone: no progress, no notes")
    loud.add_argument("-v", "--verbose", action="store_true", help="say what is opened, found in caches, and kept")


@dataclass(frozen=True)
class Output:
    """What the main rank says: results on stdout, or JSON alone there."""

    stdout: TextIO
    quiet: bool

    def result(self, text: str) -> None:
        """Print a result; under --json it goes to stderr."""
        print(text, flush=True)

    def note(self, text: str) -> None:
        """Print what --quiet leaves out."""
        if not self.quiet:
            print(text, flush=True)

    def data(self, value: Any) -> None:
        """Print the one JSON object of --json."""
        print(json.dumps(value, indent=1), file=self.stdout, flush=True)


@contextlib.contextmanager
def opened_output(options: argparse.Namespace) -> Iterator[Output]:
    """Let this process print as --json, --quiet and --verbose say."""
    with contextlib.ExitStack() as stack:
        output = Output(sys.stdout, options.quiet)
        if options.quiet:
            stack.enter_context(contextlib.redirect_stderr(_ErrorsAlone(sys.stderr)))
        if options.json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if options.verbose and place_of_process().rank == 0:
            stack.enter_context(_told())
        yield output


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Write the package's log to stderr."""
    log, handler = logging.getLogger("cskd_bench"), logging.StreamHandler()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class _ErrorsAlone(io.TextIOBase):
    """A stream that hands on the lines of errors; no progress bar is drawn on it, since it is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        """Take text; its whole lines are handed on or dropped."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith(ERROR):
                self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Flush what was handed on."""
        self._stream.flush()

# PYTHON_ARGCOMPLETE_OK
"""The command line: each verb has a file in cskd_bench/verbs."""

import argparse
import errno
import os
import select
import sys
from collections.abc import Sequence

from cskd_bench import __version__
from cskd_bench.errors import UserError
from cskd_bench.names import on_one_line
from cskd_bench.verbs import (
    advise,
    bank,
    bench,
    configs,
    doctor,
    explain,
    export,
    methods,
    pretrain,
    quickstart,
    records,
    report,
    speed,
    tasks,
    transfer,
)
from cskd_bench.verbs.common import EXIT_INTERRUPTED
from cskd_bench.verbs.completion import complete
from cskd_bench.verbs.help_texts import add_help
from cskd_bench.verbs.parser import EXIT_BAD_INPUT, VerbParser
from cskd_bench.verbs.surroundings import check_folder, mend_environment, prepare_streams

EXIT_PIPE_CLOSED = 141  # as a shell says of SIGPIPE
NO_TEMPORARY = "No usable temporary directory"  # tempfile's words, where TMPDIR and its usual ones cannot be written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of which the system names no file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; bad input is one sentence and exit code 2, an interruption that can be resumed 75."""
    prepare_streams()
    mend_environment(os.environ)
    parser = build_parser()
    complete(parser)
    options = parser.parse_args(arguments)
    try:
        check_folder()
        code = int(options.run(options) or 0)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"cskd-bench: {on_one_line(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_PIPE_CLOSED
        if error.errno not in FULL and not (
            error.strerror and (error.filename or error.strerror.startswith(NO_TEMPORARY))
        ):
            raise
        named = f"{on_one_line(str(error.filename))}: " if error.filename else ""
        print(f"cskd-bench: {named}{error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except MemoryError:
        print("cskd-bench: not enough memory; lower run.workers or the batch, or give the job more", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("cskd-bench: interrupted; start again to continue", file=sys.stderr)
        return EXIT_INTERRUPTED


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone, as in `... | head`; the rest then goes nowhere."""
    look = select.poll()
    look.register(sys.stdout, 0)
    gone = any(events & select.POLLERR for _, events in look.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def build_parser() -> argparse.ArgumentParser:
    """Describe the verbs; imports nothing heavy."""
    parser = VerbParser(
        prog="cskd-bench", description="Does distilling a CNN's spatial knowledge into a Vision Transformer pay off?"
    )
    parser.add_argument("--version", action="version", version=f"cskd-bench {__version__}")
    subparsers = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for verb in (
        quickstart,
        pretrain,
        bank,
        advise,
        transfer,
        bench,
        report,
        records,
        export,
        explain,
        doctor,
        speed,
        tasks,
        methods,
        configs,
    ):
        verb.add(subparsers)
    add_help(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

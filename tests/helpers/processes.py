"""cskd-bench, Python and torchrun in processes of their own: on the CPU, one thread each, and none of them for ever."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from helpers.ready import Command, ready

CSKD_BENCH = (sys.executable, "-m", "cskd_bench.cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TWO_RANKS = (*TORCHRUN, "--standalone", "--nproc-per-node", "2")
Started = subprocess.Popen | Command
LIMIT = 240.0  # seconds; less than a test may take, so that what a hung process said is shown


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, with the CPU and one thread chosen."""
    return {**os.environ, "CSKD_BENCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **more}


def start(command: Sequence[object], cwd: Path | None = None, *, apart: bool = False, **more: str) -> Started:
    """Start a command as a session of its own; what it prints and its errors are one text, or two where `apart`.

    A `cskd-bench` command is a fork of a process that has imported all, unless its environment matters to imports.
    """
    words = [str(word) for word in command]
    own = environment(**more)
    if tuple(words[: len(CSKD_BENCH)]) == CSKD_BENCH and ready().serves(own):
        return ready().start(words[len(CSKD_BENCH) :], str(cwd or Path.cwd()), own, apart=apart)
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if apart else subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: Started, code: int = 0, timeout: float = LIMIT) -> str:
    """Wait for a started command and return all it said; its exit code must be `code`."""
    said, _ = finish(process, timeout)
    assert process.returncode == code, said
    return said


def finish(process: Started, timeout: float = LIMIT) -> tuple[str, str]:
    """Return all that a started command said; one that hangs is killed with its children, and the test fails."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        said, errors = process.communicate(timeout=30)
        raise AssertionError(f"not ended within {timeout:.0f} s; it said:\n{said}{errors or ''}") from None


def kill(process: Started) -> None:
    """Kill a started command and all that it started; the ranks of torchrun are sessions of their own."""
    for one in [process.pid, *started_by(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what its group left behind before


def children_of(process: int) -> list[int]:
    """Return a process's children."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == process]


def started_by(process: int) -> list[int]:
    """Return a process's children, and theirs."""
    children = children_of(process)
    return [*children, *(later for child in children for later in started_by(child))]


def wait_for_fork(child: int, timeout: float = 120) -> int:
    """Return the wait status of a forked child; one that hangs is killed, and the test fails."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the forked process did not end within {timeout:.0f} s")


def run(command: Sequence[object], cwd: Path | None = None, timeout: float = LIMIT, **more: str):
    """Run a command to its end and return its exit code, output and errors, as subprocess.run does."""
    process = start(command, cwd, apart=True, **more)
    said, errors = finish(process, timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


def run_cskd_bench(*words: object, cwd: Path | None = None, code: int = 0, timeout: float = LIMIT, **more: str) -> str:
    """Run `cskd-bench WORDS` and return what it printed and its errors; its exit code must be `code`."""
    done = run([*CSKD_BENCH, *words], cwd, timeout, **more)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_python(program: str, *words: object, cwd: Path | None = None, **more: str) -> str:
    """Run a program given as text and return what it printed; it must succeed."""
    done = run([sys.executable, "-c", program, *words], cwd, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout

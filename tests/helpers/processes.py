"""cskd-bench, Python and torchrun in processes of their own: on the CPU, one thread each."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CSKD_BENCH = (sys.executable, "-m", "cskd_bench.cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TWO_RANKS = (*TORCHRUN, "--standalone", "--nproc-per-node", "2")


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, with the CPU and one thread chosen."""
    return {**os.environ, "CSKD_BENCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **more}


def start(command: Sequence[object], cwd: Path | None = None, **more: str) -> "subprocess.Popen[str]":
    """Start a command as a session of its own; its pipe holds what it prints and its errors."""
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(**more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]", code: int = 0, timeout: float = 300) -> str:
    """Wait for a started command and return all it said; its exit code must be `code`."""
    said, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, said
    return said


def run(command: Sequence[object], cwd: Path | None = None, timeout: float = 300, **more: str):
    """Run a command to its end and return its exit code, output and errors, as subprocess.run does."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_cskd_bench(*words: object, cwd: Path | None = None, code: int = 0, timeout: float = 300, **more: str) -> str:
    """Run `cskd-bench WORDS` and return what it printed and its errors; its exit code must be `code`."""
    done = run([*CSKD_BENCH, *words], cwd, timeout, **more)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_python(program: str, *words: object, cwd: Path | None = None, **more: str) -> str:
    """Run a program given as text and return what it printed; it must succeed."""
    done = run([sys.executable, "-c", program, *words], cwd, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout

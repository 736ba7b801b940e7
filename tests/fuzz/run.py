"""Fuzz the product's entrances: python -m fuzz.run TARGET...|all --seconds N, with the folder `tests` on PYTHONPATH.

All targets are imported once; each is then fuzzed in a process of its own. What is done is printed and written to
`--summary` as targets finish, so that the command can be stopped at any time.
"""

import argparse
import functools
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fuzz import child

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

MOST_RESTARTS: Final = 5  # of a target whose process was ended by an input
GRACE: Final = 60  # seconds after its time in which a process must end
STOPS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Fault:
    """An input that raised what it should not, hung, or ended the process."""

    kind: str  # such as `ValueError cskd_bench/schema.py:31`, or `timeout`
    input: str  # its file
    shown: str  # its first bytes


@dataclass
class Done:
    """What came of one target."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    edges: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return round(self.executions / self.seconds, 1) if self.seconds else 0.0

    def __str__(self) -> str:
        numbers = f"{self.executions:9,} executions {self.seconds:7.1f} s {self.per_second:9,.1f} /s"
        return f"{self.target:12} {numbers} {self.edges:6} edges {len(self.faults):3} faults"


@dataclass
class Work:
    """A target that is being fuzzed."""

    done: Done
    corpus: Path
    log: Path
    pid: int = 0
    began: float = field(default_factory=time.monotonic)
    started: float = 0.0
    restarts: int = 0
    hung: bool = False  # beyond the reach of libFuzzer's own limit


def main(words: list[str]) -> int:
    """Fuzz and return 0 where no fault was found, 1 where one was, 2 for a word that names no target."""
    options = parser().parse_args(words)
    with instrumented():
        from fuzz.targets import PLANTED, TARGETS
    unknown = set(options.targets) - {"all", *TARGETS, *PLANTED}
    if unknown:
        print(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}, and all", file=sys.stderr)
        return 2
    names = list(dict.fromkeys(name for word in options.targets for name in (TARGETS if word == "all" else [word])))
    options.findings.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    with tempfile.TemporaryDirectory() as scratch:
        fuzzer = Fuzzer(options, TARGETS | PLANTED, Path(scratch))
        try:
            for one in fuzzer.run(names):
                print(one, *(f"\n    {fault.kind}: {fault.input}" for fault in one.faults), flush=True)
                done.append(one)
                write_summary(options.summary, done, options.seconds)
        except KeyboardInterrupt:
            fuzzer.stop()
            print(f"stopped; {len(done)} of {len(names)} targets are done", file=sys.stderr)
            return 130
    return int(any(one.faults for one in done))


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command's words."""
    reader = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    reader.add_argument("targets", nargs="+", metavar="TARGET", help="names of targets, or all")
    reader.add_argument("--seconds", type=int, default=10, help="time for each target (default: 10)")
    reader.add_argument("--corpus", type=Path, help="folder that grows: what is found there is begun with, new is kept")
    reader.add_argument("--findings", type=Path, default=Path("fuzz_findings"), help="folder of inputs that fail")
    reader.add_argument("--summary", type=Path, help="JSON file of what was done, written after each target")
    reader.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    reader.add_argument("--timeout", type=int, default=10, help="seconds that one input may take (default: 10)")
    return reader


@contextmanager
def instrumented() -> Iterator[None]:
    """Count the branches of what is imported meanwhile: the package, and the readers written in Python below it."""
    import atheris
    import timm  # many modules, of which the fuzzer needs to see none
    import torch

    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # nothing is installed meanwhile
    timm.is_model("")
    torch.set_num_threads(1)
    for name in ("tarfile", "tomllib", "tomllib._parser"):
        sys.modules.pop(name, None)
    readers = ["PIL", "tarfile", "tomllib"]
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["cskd_bench", "fuzz.planted", *readers]):
        yield
        from PIL import Image

        Image.init()  # its readers of each format


class Fuzzer:
    """Starts a process for each target, some at a time, and again where an input ends it."""

    def __init__(self, options: argparse.Namespace, targets: dict[str, Any], scratch: Path) -> None:
        self._options, self._targets, self._scratch = options, targets, scratch
        self._running: list[Work] = []

    def run(self, names: list[str]) -> Iterator[Done]:
        """Yield what came of each target as it ends."""
        waiting = list(names)
        while waiting or self._running:
            while waiting and len(self._running) < self._options.jobs:
                self._begin(waiting.pop(0))
            time.sleep(0.05)
            for work in [work for work in self._running if self._is_over(work)]:
                self._running.remove(work)
                yield self._finish(work)

    def stop(self) -> None:
        """End what is running."""
        for work in self._running:
            with suppress(ProcessLookupError, ChildProcessError):  # it has ended by itself
                if work.pid:
                    os.kill(work.pid, signal.SIGKILL)
                    os.waitpid(work.pid, 0)

    def _begin(self, name: str) -> None:
        corpus = (self._options.corpus or self._scratch) / name
        corpus.mkdir(parents=True, exist_ok=True)
        for old in self._options.findings.glob(f"{name}-*"):
            old.unlink()
        work = Work(Done(name), corpus, self._scratch / f"{name}.log")
        self._running.append(work)  # before it starts: a stop ends it, too
        self._start(work, self._options.seconds)

    def _start(self, work: Work, seconds: int) -> None:
        from fuzz.targets import CORPUS, run_target

        name, findings = work.done.target, self._options.findings
        work.started = time.monotonic()
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # what is raised while a process forks is lost
        work.pid = os.fork()
        if not work.pid:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        if work.pid:
            return
        try:
            known = [CORPUS / name] if (CORPUS / name).is_dir() else []
            limit = self._options.timeout
            child.fuzz(
                name, lambda data: run_target(name, data), [work.corpus, *known], findings, work.log, seconds, limit
            )
        finally:
            os._exit(70)

    def _is_over(self, work: Work) -> bool:
        """Say whether a target's time is up; where an input ended its process, the rest goes to another one."""
        pid, status = os.waitpid(work.pid, os.WNOHANG)
        left = self._options.seconds - (time.monotonic() - work.began)
        if not pid:
            if left < -(GRACE + self._options.timeout):
                os.kill(work.pid, signal.SIGKILL)
                work.hung = True
            return False
        work.done.seconds += time.monotonic() - work.started
        if status == 0 or left < 1 or work.restarts >= MOST_RESTARTS:
            return True
        work.restarts += 1
        self._start(work, int(left))
        return False

    def _finish(self, work: Work) -> Done:
        log, done = work.log.read_text(errors="replace"), work.done
        done.seconds = round(done.seconds, 1)
        done.executions = sum(map(int, re.findall(r"stat::number_of_executed_units: (\d+)", log)))
        done.edges = max(map(int, re.findall(r" cov: (\d+)", log)), default=0)
        done.faults = list(found_faults(done.target, self._options.findings))
        if work.hung or not (done.executions or done.faults):
            kept = shutil.copy(work.log, self._options.findings / f"{done.target}.log")
            done.faults.append(Fault("hung" if work.hung else "did not run", str(kept), log[-300:]))
        return done


def found_faults(name: str, findings: Path) -> Iterator[Fault]:
    """Yield the faults of a target that its findings hold."""
    for path in sorted(findings.glob(f"{name}-*")):
        if path.suffix == ".txt":
            content = path.with_suffix(".bin")
            yield Fault(path.read_text().partition("\n")[0], str(content), repr(content.read_bytes()[:200]))
        elif found := re.match(rf"{name}-(crash|timeout|oom|leak)-", path.name):
            yield Fault(found[1], str(path), repr(path.read_bytes()[:200]))


def write_summary(path: Path | None, done: list[Done], seconds: int) -> None:
    """Write what was done so far as JSON; the paths of inputs are left out."""
    if path is None:
        return
    targets = {
        one.target: {
            **{key: value for key, value in asdict(one).items() if key not in ("target", "faults")},
            "per_second": one.per_second,
            "faults": [fault.kind for fault in one.faults],
        }
        for one in done
    }
    content = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit(), "seconds_each": seconds, "targets": targets}
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def commit() -> str:
    """Return the commit of the code, with a + where files have changed since; empty outside a checkout."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", "-C", str(folder), *words], check=False, capture_output=True, text=True).stdout

    code = (":/cskd_bench", ":/tests", ":(top,exclude)tests/fuzz/hour.json")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")


if __name__ == "__main__":
    for stop in STOPS:  # in the background of a shell, too
        signal.signal(stop, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))

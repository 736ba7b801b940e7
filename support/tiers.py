"""Run the fast tier, then the rest of the gate, and say how long each took: tiers.py [PYTEST OPTION OR FILE]..."""

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

FAST = "not slow and not gate"
REST = "gate and not slow"
# A file's fixtures are built once; files start in the order that tests/conftest.py gives.
WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
LIMIT = 40 * 60  # seconds of one tier: pytest's own limit of a test cannot end one that hangs outside of Python
HUNG = 124  # the exit code of a tier that was ended
NO_TESTS = 5  # pytest's exit code where nothing was selected


@dataclass(frozen=True)
class Tier:
    """How a part of the tests ended."""

    code: int
    tests: int
    seconds: float


def main(words: list[str]) -> int:
    """Run both parts on two workers; return 0 where every selected test passed, and there was one."""
    write_shared_caches()
    fast, rest = run(FAST, words), run(REST, words)
    tests, seconds = fast.tests + rest.tests, fast.seconds + rest.seconds
    print(f"fast tier: {fast.tests} tests, {fast.seconds:.0f} s; gate: {tests} tests, {seconds:.0f} s", flush=True)
    codes = {fast.code, rest.code}
    return NO_TESTS if codes == {NO_TESTS} else max(codes - {NO_TESTS})


def write_shared_caches() -> None:
    """Let one process write what two workers would write at once.

    yapf, which mmengine imports, pickles its grammar into the user's cache at its first import after an installation,
    in place: a process that reads it meanwhile ends with an EOFError.
    """
    subprocess.run([sys.executable, "-c", "import yapf"], check=False, stderr=subprocess.DEVNULL)


def run(marks: str, words: list[str]) -> Tier:
    """Run the tests of some marks."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = [*WORKERS, "-m", marks, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        try:
            code = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *words], check=False, timeout=LIMIT
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"tests marked {marks!r}: ended, as they were not done within {LIMIT // 60} minutes", flush=True)
            code = HUNG
        suites = ElementTree.parse(report).iter("testsuite") if report.exists() else []
        tests = sum(int(suite.get("tests", 0)) for suite in suites)
    return Tier(code, tests, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A process that has imported torch and the package; `cskd-bench` commands are forks of it, and begin at once.

Each is a session of its own with its own folder, environment and outputs, and ends as a started one does. Importing
takes 3 s, more than most of the commands that tests start.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from cskd_bench.bench.local import PRELOADED

OWN = ("CSKD_BENCH_", "PYTEST_")  # variables that nothing reads while it is imported


class Command:
    """A command that is a fork: what tests use of subprocess.Popen, with outputs in files."""

    def __init__(self, args: Sequence[str], pid: int, outputs: Sequence[Path], status: Path) -> None:
        self.args, self.pid, self.returncode = args, pid, None
        self._outputs, self._status = outputs, status

    def poll(self) -> int | None:
        """Return its exit code once it has ended: minus the signal that ended it."""
        if self.returncode is None and self._status.exists():
            self.returncode = os.waitstatus_to_exitcode(int(self._status.read_text()))
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """Return its exit code; subprocess.TimeoutExpired where it takes longer."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float = float("inf")) -> tuple[str, str]:
        """Return all that it printed, and its errors where they are apart, once it has ended."""
        self.wait(timeout)
        said = [path.read_text(encoding="utf-8", errors="backslashreplace") for path in self._outputs]
        return said[0], "".join(said[1:])

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Ready:
    """The process that is forked, started once for a test process, with its environment of that time."""

    def __init__(self) -> None:
        self.environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
        self._folder = TemporaryDirectory()
        self._socket, theirs = socket.socketpair()
        self._started = 0
        command = [sys.executable, "-m", "helpers.ready", str(theirs.fileno()), self._folder.name]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = self.environment | {"PYTHONPATH": path}
        subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        theirs.close()

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether what differs in an environment is not read by an import."""
        names = {name for name, _ in self.environment.items() ^ environment.items()}
        return all(name.startswith(OWN) for name in names)

    def start(self, words: Sequence[str], cwd: str, environment: Mapping[str, str], *, apart: bool) -> Command:
        """Start `cskd-bench WORDS` in a folder."""
        self._started += 1
        place = Path(self._folder.name) / str(self._started)
        place.mkdir()
        outputs = [place / "out", place / "err"] if apart else [place / "out"]
        asked = {"words": list(words), "cwd": cwd, "environment": dict(environment), "place": str(place)}
        self._socket.sendall(json.dumps(asked | {"outputs": [str(path) for path in outputs]}).encode() + b"\n")
        with self._socket.makefile("r") as answers:
            pid = int(answers.readline())
        return Command(words, pid, outputs, place / "status")


@cache
def ready() -> Ready:
    """Return this test process's own."""
    return Ready()


def serve(connection: socket.socket) -> dict | None:
    """Fork for each request and note how each fork ends; return a request in its fork, None at the end of all."""
    running: dict[int, Path] = {}
    requests = connection.makefile("rb")
    while True:
        asked, _, _ = select.select([connection], [], [], 0.005 if running else None)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                note = running.pop(pid) / "status"
                note.with_suffix(".new").write_text(str(status))
                note.with_suffix(".new").rename(note)
        if not asked:
            continue
        line = requests.readline()
        if not line:
            return None
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()  # before anybody knows its number
            connection.sendall(f"{os.getpid()}\n".encode())
            connection.close()
            return request
        running[child] = Path(request["place"])


def become(request: dict) -> None:
    """Be the command: its folder, environment, outputs and words."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, file in ((1, request["outputs"][0]), (2, request["outputs"][-1])):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.path[0] = request["cwd"]
    sys.argv = ["", *request["words"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module("cskd_bench.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for module in PRELOADED:
        import_module(module)
    with socket.socket(fileno=int(sys.argv[1])) as given:
        asked_for = serve(given)
    if asked_for is not None:
        become(asked_for)

"""A process that has imported torch and the package; `cskd-bench` commands are forks of it, and begin at once.

Each is a session of its own with its own folder, environment and outputs, and ends as a started one does. Importing
takes 3 s, more than most of the commands that tests start.
"""

import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from cskd_bench.bench.local import PRELOADED

# Variables that no import here reads: our own and pytest's, and what ray and OpenCV set where they are imported.
OWN = ("CSKD_BENCH_", "PYTEST_", "RAY_", "PYTHONBREAKPOINT", "QT_QPA_", "LD_LIBRARY_PATH")


class Command:
    """A command that is a fork: what tests use of subprocess.Popen, with a pipe for each output."""

    def __init__(self, args: Sequence[str], pid: int, pipes: Sequence[int], status: Path) -> None:
        self.args, self.pid, self.returncode = args, pid, None
        self._status = status
        self._said = {pipe: bytearray() for pipe in pipes}
        self._reading = selectors.DefaultSelector()
        for pipe in pipes:
            self._reading.register(pipe, selectors.EVENT_READ)

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

    def communicate(self, timeout: float = 3600.0) -> tuple[str, str]:
        """Return all that it and what it started printed, and the errors where they are apart, once all have ended."""
        until = time.monotonic() + timeout
        while self._reading.get_map():
            ready = self._reading.select(max(0.0, until - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout)
            for pipe in [key.fd for key, _ in ready]:
                read = os.read(pipe, 1 << 16)
                self._said[pipe] += read
                if not read:
                    self._reading.unregister(pipe)
                    os.close(pipe)
        self.wait(max(0.0, until - time.monotonic()))
        said = [text.decode(errors="backslashreplace") for text in self._said.values()]
        return said[0], "".join(said[1:])

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Ready:
    """The process that is forked, started once for a test process, with its environment of that time."""

    def __init__(self) -> None:
        self.environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
        self._folder = TemporaryDirectory()
        self._socket, theirs = socket.socketpair()
        self._started = 0
        command = [sys.executable, "-m", "helpers.ready", str(theirs.fileno())]
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
        status = Path(self._folder.name) / str(self._started)
        pipes = [os.pipe() for _ in range(1 + apart)]
        asked = {"words": list(words), "cwd": cwd, "environment": dict(environment), "status": str(status)}
        ends = [write for _, write in pipes]
        message = json.dumps(asked).encode()
        socket.send_fds(self._socket, [len(message).to_bytes(8, "big")], ends)
        self._socket.sendall(message)
        for end in ends:
            os.close(end)
        pid = int.from_bytes(self._socket.recv(8, socket.MSG_WAITALL), "big")
        return Command(words, pid, [read for read, _ in pipes], status)


@cache
def ready() -> Ready:
    """Return this test process's own."""
    return Ready()


@dataclass
class Request:
    """A command to become, and where its outputs go."""

    words: list[str]
    cwd: str
    environment: dict[str, str]
    status: str
    outputs: list[int] = field(default_factory=list)


def serve(connection: socket.socket) -> Request | None:
    """Fork for each request and note how each fork ends; return a request in its fork, None at the end of all."""
    running: dict[int, Path] = {}
    while True:
        asked, _, _ = select.select([connection], [], [], 0.005 if running else None)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                note_end(running.pop(pid), status)
        if not asked:
            continue
        request = receive(connection)
        if request is None:
            return None
        child = os.fork()
        if child == 0:
            os.setsid()  # before anybody knows its number
            connection.sendall(os.getpid().to_bytes(8, "big"))
            connection.close()
            return request
        running[child] = Path(request.status)
        for output in request.outputs:
            os.close(output)


def receive(connection: socket.socket) -> Request | None:
    """Return the next request with its outputs; None where nobody asks any more."""
    size, outputs, _, _ = socket.recv_fds(connection, 8, 2)
    if not size:
        return None
    message = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    return Request(**json.loads(message), outputs=list(outputs))


def note_end(file: Path, status: int) -> None:
    new = file.with_suffix(".new")
    new.write_text(str(status))
    new.rename(file)


def become(request: Request) -> None:
    """Be the command: its folder, environment, outputs and words."""
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    os.dup2(request.outputs[0], 1)
    os.dup2(request.outputs[-1], 2)
    for output in request.outputs:
        os.close(output)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (it stays open)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.path[0] = request.cwd
    sys.argv = ["", *request.words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module("cskd_bench.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for module in PRELOADED:
        import_module(module)
    with socket.socket(fileno=int(sys.argv[1])) as given:
        asked_for = serve(given)
    if asked_for is not None:
        become(asked_for)

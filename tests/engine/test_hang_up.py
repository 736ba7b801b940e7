"""A terminal that is closed: pretraining and a bench write a checkpoint and end, as at Ctrl-C."""

import os
import pty
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import processes
from helpers.tiny import write_run

from cskd_bench.stopping import Stop, stop_signals

LONG = {"method.kind": "supervised", "student.patch_size": 16, "student.depth": 1, "recipe.epochs": 20000}
LONG |= {"recipe.ema_decay": 0.0}


def in_terminal(words: list[str], folder: Path) -> tuple[int, int]:
    """Start a command in a terminal of its own; return its process and the terminal's other end."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(words[0], words, processes.environment())
    return process, terminal


@pytest.mark.gate
@pytest.mark.parametrize(
    "words", [["pretrain", "run.toml"], ["bench", "plan.toml", "--threads", "1"]], ids=["pretrain", "bench"]
)
def test_a_terminal_that_is_closed_ends_all_in_order(words, tmp_path, colour_squares):
    write_run(tmp_path / "run.toml", {**LONG, "name": "long", "data.root": colour_squares})
    (tmp_path / "plan.toml").write_text('students = ["run.toml"]\nseeds = [0]\nmethods = ["supervised"]\n')
    process, terminal = in_terminal([*processes.CSKD_BENCH, *words], tmp_path)
    os.set_blocking(terminal, False)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/log.jsonl")):  # it trains
        assert time.monotonic() < until
        drain(terminal)
        time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(processes.wait_for_fork(process)) == 75
    while there := at_work_in(tmp_path):  # a bench's cell may end after it
        assert time.monotonic() < until, there
        time.sleep(0.05)
    assert list(tmp_path.glob("runs/*/checkpoints/step-*"))


def at_work_in(folder: Path) -> list[str]:
    """Return the processes whose working folder it is."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            found += [place.parent.name] if place.readlink() == folder else []
    return found


def drain(terminal: int) -> None:
    try:
        os.read(terminal, 1 << 16)
    except BlockingIOError:
        return


def test_under_nohup_a_closed_terminal_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_a_request_to_stop(monkeypatch):
    left = []
    monkeypatch.setattr("cskd_bench.stopping.leave_terminal", lambda: left.append(True))
    with stop_signals(Stop()) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested and stop.heard == {signal.SIGHUP} and left == [True]

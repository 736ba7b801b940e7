"""`bench --within`: no cell starts that would take longer than is left; on a clock that runs as the cells do."""

import contextlib
import io
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.benches import CELLS, write_plan
from rich.console import Console

from cskd_bench.bench.plan import PretrainCell, expand, load_plan
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.runner import BenchResult, Share, run_plan
from cskd_bench.bench.watched import read_state
from cskd_bench.bench.work import Ended, Places
from cskd_bench.cli import main

PRETRAINING, TRANSFER = 100.0, 10.0  # seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of 24 cells: 4 pretrainings, with 5 transfers each."""
    return write_plan(tmp_path_factory.mktemp("plan"), colour_squares)


@pytest.fixture
def clock(monkeypatch):
    """A clock that cells move forward."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    return now


class Simulated:
    """Cells that take their time on the clock and do nothing else."""

    one_machine = True

    def __init__(self, clock):
        self.clock, self.running, self.ends = clock, {}, []

    def adopt(self, jobs):
        return []

    def fits(self, resources):
        return True

    def start(self, job):
        takes = PRETRAINING if isinstance(job.cell, PretrainCell) else TRANSFER
        self.running[job.cell.name] = (self.clock.seconds + takes, job.cell)

    def collect_ended(self):
        assert self.running, "the bench waits for nothing"
        end, cell = min(self.running.values(), key=lambda one: one[0])
        del self.running[cell.name]
        self.clock.seconds = end
        self.ends.append(end)
        return [(cell, Ended())]

    def stop(self):
        raise AssertionError("a cell was stopped")

    def close(self):
        pass


@pytest.mark.parametrize(
    ("seconds", "done"),
    [
        (None, CELLS),
        (0.0, 0),
        (1.0, 2),  # nothing is known: as many as run at a time
        (255.0, 12),  # two pretrainings and their transfers, 150 s; of two more a tenth might be lacking
        (261.0, 16),  # two more, 250 s, and two of their transfers, 260 s
        (1000.0, CELLS),
    ],
)
def test_no_cell_starts_that_would_take_longer_than_is_left(place, clock, tmp_path, seconds, done):
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
    executor, places = Simulated(clock), Places(tmp_path / "runs", tmp_path / "results")
    until = None if seconds is None else clock.seconds + seconds
    share, console = Share(2, Resources(1)), Console(file=io.StringIO())
    outcome = run_plan(cells, places, executor, share, console=console, until=until)
    assert outcome == BenchResult(done=done, left=CELLS - done, attempts=done)
    assert executor.running == {} and (until is None or seconds == 1.0 or max(executor.ends, default=0) <= until)
    state = read_state(tmp_path / "runs" / "bench" / "plan.json").state
    assert state == ("interrupted" if outcome.left else "done")


def test_what_is_left_is_said_and_the_exit_code_is_that_of_a_stop(place, clock, monkeypatch, tmp_path, capsys):
    asked = []

    def some_left(*_, until, **__):
        asked.append(until)
        return BenchResult(done=20, left=4, attempts=3)

    monkeypatch.chdir(place)
    monkeypatch.setattr("cskd_bench.bench.runner.run_plan", some_left)
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main(["bench", "plan.toml", "--within", "7.5", *words]) == 75
    assert asked == [1000.0 + 450.0]
    assert "4 of the cells are left, as they would not finish within 7.5 minutes; " in capsys.readouterr().err


def test_a_time_too_short_for_any_cell_is_refused_as_the_same_command_would_never_get_further(
    place, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(place)
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main(["bench", "plan.toml", "--within", "0", *words]) == 2
    said = capsys.readouterr().err
    assert f"--within 0: too short for any of the {CELLS} cells that are left" in said and "give more minutes" in said

"""`bench status`: a bench that runs, one that was killed, two at once, on a full disk and without locks."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import processes
from helpers.tiny import write_run

from cskd_bench.bench import watched
from cskd_bench.bench.costs import Expected
from cskd_bench.bench.ledger import Ledger
from cskd_bench.bench.plan import expand, load_plan
from cskd_bench.bench.queue import Queue
from cskd_bench.bench.state import Found
from cskd_bench.bench.watched import BenchState, CellState, Watched, find_states, is_alive, read_state, utc_now
from cskd_bench.bench.work import Ended, Places
from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.files import this_machine
from cskd_bench.schema import shipped

TINY = {"method.kind": "supervised", "student.patch_size": 16, "student.depth": 1, "recipe.ema_decay": 0.0}
HOLDER = """
import sys
from pathlib import Path
from cskd_bench.bench.watched import BenchState, Watched, utc_now
from cskd_bench.files import this_machine
import os
bench = Watched(Path(sys.argv[1]), "plan")
print(bench.begin(), flush=True)
bench.show(lambda: BenchState(plan="plan", machine=this_machine(), pid=os.getpid(), started=utc_now(),
    updated=utc_now(), state="running", executor="local", parallel=1, seconds_left=None, at_least=False, cells=()))
print("shown", flush=True)
sys.stdin.read()
"""


def state(**changes):
    cell = CellState(name="a_s0", kind="pretrain", state="running", since=utc_now(), attempts=1, log="logs/a_s0.log")
    values = {
        "plan": "plan",
        "machine": this_machine(),
        "pid": os.getpid(),
        "started": utc_now(),
        "updated": utc_now(),
        "state": "running",
        "executor": "local",
        "parallel": 2,
        "seconds_left": 60.0,
        "at_least": False,
        "cells": (cell,),
    }
    return BenchState(**values | changes)


def write(runs: Path, content: BenchState, name: str = "plan") -> Path:
    path = runs / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.model_dump_json())
    return path


def hold(runs: Path) -> "subprocess.Popen[str]":
    """Start a process that is a bench to all who look, until it is killed."""
    words = [sys.executable, "-c", HOLDER, str(runs)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.note = process.stdout.readline().strip()
    assert process.stdout.readline() == "shown\n"
    return process


def look(runs: Path, capsys) -> dict:
    assert main(["bench", "status", "--runs", str(runs), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_killed_bench_is_gone_and_the_next_one_replaces_it(tmp_path, capsys):
    first = hold(tmp_path)
    assert first.note == ""
    assert [one["status"] for one in look(tmp_path, capsys)["benches"]] == ["running"]
    second = hold(tmp_path)
    assert second.note.startswith("another bench of plan (") and f"process {first.pid}) is at it" in second.note
    assert {one["pid"] for one in look(tmp_path, capsys)["benches"] if one["alive"]} == {first.pid, second.pid}
    for process in (first, second):
        process.kill()
        process.communicate()
    assert [one["status"] for one in look(tmp_path, capsys)["benches"]] == ["gone", "gone"]
    assert main(["bench", "status", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("plan: ended without a message, last seen 0:00:0") == 2
    third = hold(tmp_path)
    assert third.note == "" and [one["pid"] for one in look(tmp_path, capsys)["benches"]] == [third.pid]
    third.kill()
    third.communicate()


def test_another_machines_bench_lives_as_long_as_it_writes(tmp_path):
    path = write(tmp_path, state())
    elsewhere = state(machine="far 1 2")
    old = elsewhere.model_copy(update={"updated": utc_now() - timedelta(seconds=watched.STALE + 5)})
    assert is_alive(path, elsewhere) and not is_alive(path, old)
    path.with_suffix(".lock").touch()  # free, as one on that machine may seem from here
    assert is_alive(path, elsewhere) and not is_alive(path, state())
    assert not is_alive(path, elsewhere.model_copy(update={"state": "done"}))


def test_without_locks_a_process_that_is_there_tells(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(watched.fcntl, "lockf", no_locks)
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = write(tmp_path, state())
    path.with_suffix(".lock").touch()
    assert is_alive(path, state()) and not is_alive(path, state(pid=ended.pid))
    second = Watched(tmp_path, "plan")
    assert "is at it" in second.begin() and second.path != path
    write(tmp_path, state(pid=ended.pid))
    assert Watched(tmp_path, "plan").begin() == ""


def test_a_disk_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("no folder")
    bench = Watched(tmp_path / "runs", "plan")
    assert bench.begin() == "" and bench.show(state) is None
    bench = Watched(tmp_path / "other", "plan")
    bench.begin()
    monkeypatch.setattr(watched, "write_file", lambda *_: (_ for _ in ()).throw(UserError("full")))
    assert bench.show(state) is None and not bench.path.exists()
    bench.end()


def test_nothing_happens_and_little_is_written(tmp_path, monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(watched.time, "monotonic", lambda: now.seconds)
    bench, written = Watched(tmp_path, "plan"), []
    monkeypatch.setattr(watched, "write_file", lambda path, _: written.append(now.seconds))
    bench.show(state)
    assert written == [], "not begun: a finished bench is only read"
    bench.begin()
    for seconds in (100.0, 101.0, 104.0, 106.0, 107.0):
        now.seconds = seconds
        bench.show(state, now=seconds == 104.0)
    assert written == [100.0, 104.0]
    now.seconds = 109.0
    bench.show(state, now=False)
    bench.end()
    assert written[-1] == 109.0


def test_status_tells_what_running_cells_say(tmp_path, capsys):
    write(tmp_path, state(machine="far 1 2"))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a_s0.log").write_text("a_s0: epoch 1\n\na_s0: epoch 2  \x1b[1mloss\n")
    (tmp_path / "a_s0").mkdir()
    lines = [{"step": 50, "images_per_second": 123.4}, {"step": 60, "top1": 0.5}]
    (tmp_path / "a_s0" / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"ste')
    told = look(tmp_path, capsys)
    (bench,) = told["benches"]
    assert bench.keys() == BenchState.model_fields.keys() | {"status", "alive", "host", "counts"}
    assert (bench["status"], bench["host"], bench["counts"]) == ("running", "far", {"running": 1})
    (cell,) = bench["cells"]
    assert cell.keys() == CellState.model_fields.keys() | {"message", "step", "images_per_second"}
    assert (cell["step"], cell["images_per_second"]) == (60, 123.4)
    assert cell["message"] == r"epoch 2  \x1b[1mloss"
    assert main(["bench", "status", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "plan: running for 0:00:0" in said and "1 running, about 0:01:00 left" in said
    assert "epoch 2" in said and " 123 " in said
    for file in (tmp_path / "logs" / "a_s0.log", tmp_path / "a_s0" / "log.jsonl"):
        os.utime(file, (1e9, 1e9))  # of an earlier attempt
    (bench,) = look(tmp_path, capsys)["benches"]
    assert bench["cells"][0]["message"] == "" and bench["cells"][0]["step"] is None


def test_where_no_bench_is_it_says_so(tmp_path, capsys):
    assert main(["bench", "status", "--runs", str(tmp_path)]) == 2
    assert "no bench has left its state here" in capsys.readouterr().err
    for damaged in ("{", *(json.dumps(state().model_dump(mode="json") | {"pid": pid}) for pid in (10**30, 0, -1))):
        (tmp_path / "bench").mkdir(exist_ok=True)
        (tmp_path / "bench" / "plan.json").write_text(damaged)
        assert [found for _, found in find_states(tmp_path)] == [None]
        assert main(["bench", "status", "--runs", str(tmp_path)]) == 2
        assert "plan.json: cannot be read" in capsys.readouterr().err


def test_the_word_is_status_and_a_file_of_that_name_is_a_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "./status", "--dry-run"]) == 2
    assert "status: " in (said := capsys.readouterr().err) and "bench has left" not in said
    assert main(["bench", "benchmarks/quickstart.toml", "--json"]) == 2
    assert "--json is for `bench status`" in capsys.readouterr().err


def test_a_ledger_tells_what_each_cell_is_at(tmp_path):
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    cells = expand(load_plan(file), file)
    places = Places(tmp_path, tmp_path)
    queue = Queue(cells, Found(places), {"digits knn quickstart_supervised_s0", "quickstart_kd_s0"})
    ledger = Ledger(queue, SimpleNamespace(expect=lambda cell: Expected(7.0, about=True)), places)

    def told(*, running=True):
        return {cell.name: cell for cell in ledger.cells(running=running)}

    run = next(cell for cell in queue.left if cell.name == "quickstart_supervised_s0")
    knn = f"digits knn {run.name}"
    states = {name: (cell.state, cell.waits_for) for name, cell in told().items()}
    assert states == {
        "quickstart_teacher": ("ready", ""),
        "quickstart_supervised_s0": ("ready", ""),
        "quickstart_kd_s0": ("waiting", "quickstart_teacher"),
        knn: ("waiting", run.name),
    }
    for attempt, ended in ((1, Ended("OSError: no")), (2, Ended())):
        queue.begin(run, attempt)
        ledger.note_start(run)
        cell = told()[run.name]
        assert (cell.state, cell.attempts, cell.expected, cell.about) == ("running", attempt, 7.0, True)
        assert told(running=False)[run.name].state == "ready"
        ledger.note_end(run, ended, 3.0, queue.account_for(run, ended, attempt))
        assert told()[run.name].error == ended.error
    assert (told()[run.name].state, told()[run.name].seconds, told()[knn].state) == ("finished", 3.0, "ready")
    for attempt in (0, 0):
        queue.begin(cells.teacher, attempt)
        ledger.note_start(cells.teacher)
        failed = Ended("OSError: disk \udcff")
        ledger.note_end(cells.teacher, failed, 1.0, queue.account_for(cells.teacher, failed, 0))
    assert (told()["quickstart_teacher"].state, told()["quickstart_teacher"].error) == (
        "given up",
        r"OSError: disk \xff",
    )
    assert told()["quickstart_kd_s0"].error == "not run: the plan's teacher failed"
    assert told()["quickstart_kd_s0"].log == "logs/quickstart_kd_s0.log"


@pytest.mark.gate
def test_a_bench_is_looked_at_while_it_runs_and_when_it_is_killed(tmp_path, colour_squares):
    write_run(tmp_path / "student.toml", {**TINY, "data.root": colour_squares, "run.save_every": 1})
    (tmp_path / "plan.toml").write_text('students = ["student.toml"]\nseeds = [0, 1]\nmethods = ["supervised"]\n')

    def look_from_elsewhere():
        status = ["bench", "status", "--json"]
        return json.loads(processes.run([*processes.CSKD_BENCH, *status], cwd=tmp_path).stdout)["benches"]

    bench = processes.start([*processes.CSKD_BENCH, "bench", "plan.toml", "--set", "recipe.epochs=4000"], cwd=tmp_path)
    path, until = tmp_path / "runs" / "bench" / "plan.json", time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/log.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.1)
    (told,) = look_from_elsewhere()
    assert (told["status"], told["pid"], told["counts"]) == ("running", bench.pid, {"running": 1, "ready": 1})
    assert [cell["step"] is not None for cell in told["cells"] if cell["state"] == "running"] == [True]
    bench.send_signal(signal.SIGTERM)
    processes.end(bench, 75)
    (told,) = look_from_elsewhere()
    assert (told["status"], told["alive"], told["counts"]) == ("interrupted", False, {"ready": 2})
    bench = processes.start([*processes.CSKD_BENCH, "bench", "plan.toml", "--set", "recipe.epochs=4000"], cwd=tmp_path)
    while (now := read_state(path)) is None or now.pid != bench.pid:
        assert time.monotonic() < until
        time.sleep(0.1)
    bench.kill()
    processes.finish(bench)
    (told,) = look_from_elsewhere()
    assert (told["status"], told["pid"], told["counts"]) == ("gone", bench.pid, {"running": 1, "ready": 1})

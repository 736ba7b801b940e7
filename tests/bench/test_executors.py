"""What becomes of a cell whose process is killed, whose job is refused, or whose cluster is not there."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import Mock

import pytest

from cskd_bench.bench import local
from cskd_bench.bench.plan import PretrainCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.runner import _stops_like_ctrl_c
from cskd_bench.bench.slurm import Slurm
from cskd_bench.bench.state import write_failures
from cskd_bench.bench.work import CellJob, Places
from cskd_bench.cli import main
from cskd_bench.config import PretrainConfig, Supervised
from cskd_bench.schema import shipped

pytestmark = pytest.mark.gate


def job(name, folder):
    return CellJob.of(
        PretrainCell(PretrainConfig(name=name, method=Supervised()), ""), Places(folder, folder), Resources(1)
    )


def until_ended(executor, count):
    ended, latest = {}, time.monotonic() + 60
    while len(ended) < count:
        assert time.monotonic() < latest
        ended.update({cell.name: end for cell, end in executor.collect_ended()})
    return ended


def test_a_process_that_is_killed_costs_its_own_cell_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    import crashing_work

    monkeypatch.setattr(local, "_work", crashing_work.work)
    executor = local.Local(3)
    try:
        for name in ("one", "killed", "two", "stopped"):
            executor.start(job(name, tmp_path))
        ended = until_ended(executor, 4)
        assert "its process was ended by SIGKILL" in ended.pop("killed").error
        assert ended.pop("stopped").interrupted
        assert all(not end.error for end in ended.values()) and len(ended) == 2
        for name in ("three", "four", "five"):  # the killed one's place is taken again
            executor.start(job(name, tmp_path))
        assert all(not end.error for end in until_ended(executor, 3).values())
    finally:
        executor.close()


def test_an_error_longer_than_a_pipe_is_heard(tmp_path, monkeypatch):
    with crashing(monkeypatch, "long_winded") as executor:
        executor.start(job("one", tmp_path))
        assert len(until_ended(executor, 1)["one"].error) > 2**17


def test_a_server_that_is_killed_while_it_starts_is_replaced(tmp_path, monkeypatch):
    with crashing(monkeypatch, "work") as executor:
        forkserver._forkserver._stop()  # of the tests before
        killer = threading.Thread(target=kill_server, args=(0.2,))  # before it has imported torch
        killer.start()
        executor.start(job("one", tmp_path))
        killer.join()
        assert not until_ended(executor, 1)["one"].error


def test_a_server_that_never_lives_is_an_error_in_words(tmp_path, monkeypatch):
    def lost(*_):
        raise EOFError

    with crashing(monkeypatch, "work") as executor:
        monkeypatch.setattr(local.ForkServerProcess, "start", lost)
        monkeypatch.setattr(local, "TICK", 0.0)
        executor.start(job("one", tmp_path))
        assert "its process could not be started: the server" in until_ended(executor, 1)["one"].error


def kill_server(after: float = 0.0) -> None:
    until = time.monotonic() + 30
    while not forkserver._forkserver._forkserver_pid and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(after)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)


def test_cells_whose_server_is_killed_are_asked_to_stop_and_heard(tmp_path, monkeypatch):
    with crashing(monkeypatch, "until_asked") as executor:
        executor.start(job("one", tmp_path))
        until = time.monotonic() + 60
        while not (tmp_path / "began").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        kill_server()
        assert until_ended(executor, 1)["one"].interrupted


@contextmanager
def crashing(monkeypatch, what):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    import crashing_work

    monkeypatch.setattr(local, "_work", getattr(crashing_work, what))
    executor = local.Local(1)
    try:
        yield executor
    finally:
        executor.close()


def test_a_job_that_slurm_refuses_ends_in_words(tmp_path):
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    slurm = Slurm(Resources(1), tmp_path, {"cluster": "local"})

    def refuse(*_):
        raise RuntimeError("invalid partition specified")

    slurm._executor(Resources(1)).submit = refuse
    slurm.start(job("refused", tmp_path))
    ((cell, ended),) = slurm.collect_ended()
    assert cell.name == "refused" and "not submitted: RuntimeError: invalid partition" in ended.error
    assert slurm.collect_ended() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_loses_no_job_that_is_being_submitted(tmp_path, number):
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    slurm = Slurm(Resources(1), tmp_path, {"cluster": "local"})

    def submit(_):
        signal.raise_signal(number)
        return Mock(job_id="1001")

    slurm._executor(Resources(1)).submit = submit
    with pytest.raises(KeyboardInterrupt), _stops_like_ctrl_c():
        slurm.start(job("submitted", tmp_path))
    ((_, noted),) = json.loads((tmp_path / "jobs.json").read_text()).items()
    assert noted["job"] == "1001"


def test_wrong_words_for_slurm_are_named(tmp_path, capsys):
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    words = ["--executor", "slurm", "--slurm", "cluster=local", "--slurm", "timeout_min=abc"]
    plan = str(shipped("configs") / "benchmarks" / "quickstart.toml")
    assert main(["bench", plan, "--runs", str(tmp_path), "--results", str(tmp_path), *words]) == 2
    assert "--slurm" in capsys.readouterr().err


def test_what_failed_stays_listed_until_it_is_finished(tmp_path):
    """Another plan, or a start that was interrupted before its turn, takes nothing off the list."""
    places, file = Places(tmp_path, tmp_path), tmp_path / "failures.json"

    def listed(failed, finished):
        entries = [{"cell": name, "error": error, "time": "now"} for name, error in failed.items()]
        write_failures(places, entries, finished)
        return {entry["cell"]: entry["error"] for entry in json.loads(file.read_text())}

    assert listed({"a": "no data", "b": "not run"}, set()) == {"a": "no data", "b": "not run"}
    assert listed({}, {"c"}) == {"a": "no data", "b": "not run"}
    assert listed({"a": "again"}, set()) == {"a": "again", "b": "not run"}
    assert listed({}, {"a"}) == {"b": "not run"}
    file.write_text("[[")
    assert listed({"d": "new"}, set()) == {"d": "new"}

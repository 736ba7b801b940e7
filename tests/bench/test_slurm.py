"""Cells as jobs: time limits, preemption, a bench that is killed, a Slurm that takes no more, what is asked of it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import processes
from helpers.benches import OF_ONE_RUN
from helpers.tiny import write_run

from cskd_bench.record import read_record

pytest.importorskip("submitit", reason="the slurm extra is not installed")
TINY = {"name": "tiny", "method.kind": "supervised", "student.patch_size": 16, "student.depth": 1}
TINY |= {"recipe.epochs": 6, "recipe.ema_decay": 0.0, "run.save_every": 1}
SLOW = """
import os, threading, time
from cskd_bench import stopping

class Slow(stopping.Stop):
    @property
    def requested(self):
        if threading.current_thread() is threading.main_thread() and not self.__dict__["asked"]:
            time.sleep(float(os.environ["SECONDS_A_STEP"]))
        return self.__dict__["asked"]

    @requested.setter
    def requested(self, asked):
        self.__dict__["asked"] = asked

stopping.Stop = Slow
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of two small runs, and what slows their steps."""
    folder = tmp_path_factory.mktemp("slurm")
    write_run(folder / "student.toml", {**TINY, "data.root": colour_squares})
    for name, seeds in (("two", "[0, 1]"), ("one", "[0]")):
        (folder / f"{name}.toml").write_text(
            f'students = ["student.toml"]\nseeds = {seeds}\nmethods = ["supervised"]\n'
        )
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW)
    return folder


@pytest.fixture(scope="module")
def undisturbed(place):
    """The records of both runs, by their seeds, as a plain bench makes them."""
    processes.end(start(place, "undisturbed", "two", 0.0, executor="local"))
    return records(place, "undisturbed")


def start(place, output, plan, seconds, *words, executor="slurm", **more) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(place / "slow"), os.environ.get("PYTHONPATH", "")])
    command = [*processes.CSKD_BENCH, "bench", f"{plan}.toml", "--executor", executor, "--threads", "1"]
    command += ["--runs", f"{output}/runs", "--results", f"{output}/results", "--parallel", "2", *words]
    return processes.start(command, cwd=place, PYTHONPATH=path, SECONDS_A_STEP=str(seconds), **more)


def read_records(place, output):
    return [read_record(path) for path in (place / output / "results" / "records").glob("*.json")]


def records(place, output):
    return {record.seed: record.model_dump(exclude=OF_ONE_RUN) for record in read_records(place, output)}


def resumptions(place, output):
    return {record.seed: record.resumptions for record in read_records(place, output)}


def listed(place, output) -> dict[str, str]:
    """Return the bench's own list of jobs."""
    file = place / output / "runs" / "slurm" / "jobs.json"
    return {cell: entry["job"] for cell, entry in json.loads(file.read_text()).items()} if file.exists() else {}


def until(holds, seconds=120.0):
    """Wait until something holds, and return it."""
    latest = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < latest
        time.sleep(0.05)
    return found


def checkpoints(place, output, seed) -> list[Path]:
    return list((place / output / "runs" / f"tiny_supervised_s{seed}" / "checkpoints").glob("step-*"))


@pytest.mark.gate
def test_on_submitits_local_cluster_a_time_out_and_a_sigterm_cost_no_attempt(place, undisturbed):
    bench = start(place, "local", "two", 1.2, "--slurm", "cluster=local", "--time", "1")
    until(lambda: checkpoints(place, "local", 1))
    number = listed(place, "local")["tiny_supervised_s1"]
    os.kill(int(number), signal.SIGTERM)
    said = processes.end(bench)
    assert records(place, "local") == undisturbed
    assert min(resumptions(place, "local").values()) >= 1
    assert "stopped by something else, to be started again: tiny_supervised_s1" in said
    assert "failed once" not in said and listed(place, "local") == {}
    logs = [path.read_text() for path in (place / "local" / "runs" / "slurm").glob("*_log.out")]
    assert any("Requeued job" in log for log in logs)


@pytest.mark.gate
def test_under_slurm_a_job_requeues_itself_when_its_time_is_up(place, undisturbed, cluster):
    words = ["--time", "0:12:00", "--slurm", "slurm_signal_delay_s=200"]  # 36 s, the last 10 of them for checkpoints
    said = processes.end(start(place, "timed", "two", 0.8, *words, PATH=cluster.path))
    assert records(place, "timed") == undisturbed
    assert min(resumptions(place, "timed").values()) >= 1
    assert len(cluster.jobs()) == 2 and min(cluster.starts(job) for job in cluster.jobs()) >= 2
    assert "failed once" not in said and "stopped" not in said and listed(place, "timed") == {}


@pytest.mark.gate
def test_a_bench_that_is_killed_leaves_its_jobs_to_the_next(place, undisturbed, cluster):
    bench = start(place, "killed", "two", 1.0, PATH=cluster.path)
    until(lambda: checkpoints(place, "killed", 0) and checkpoints(place, "killed", 1))
    os.kill(bench.pid, signal.SIGKILL)
    processes.finish(bench)
    jobs = listed(place, "killed")
    assert sorted(jobs.values()) == cluster.jobs() == ["1001", "1002"]
    assert [cluster.state(job) for job in cluster.jobs()] == ["RUNNING", "RUNNING"]
    said = processes.end(start(place, "killed", "two", 1.0, PATH=cluster.path))
    assert records(place, "killed") == undisturbed
    assert cluster.jobs() == ["1001", "1002"] and "failed once" not in said and listed(place, "killed") == {}


@pytest.mark.gate
def test_submitits_local_jobs_are_taken_over_too(place, undisturbed):
    bench = start(place, "taken", "one", 0.8, "--slurm", "cluster=local")
    until(lambda: checkpoints(place, "taken", 0))
    jobs = listed(place, "taken")
    os.kill(bench.pid, signal.SIGKILL)
    bench.wait()
    processes.end(start(place, "taken", "one", 0.8, "--slurm", "cluster=local"))
    assert records(place, "taken") == {0: undisturbed[0]} and resumptions(place, "taken") == {0: 0}
    submitted = (place / "taken" / "runs" / "slurm").glob("*_submitted.pkl")
    assert [path.name.split("_")[0] for path in submitted] == list(jobs.values())


@pytest.mark.gate
def test_a_job_that_a_person_cancels_is_submitted_again_by_the_bench_alone(place, undisturbed, cluster):
    bench = start(place, "cancelled", "one", 0.6, "--time", "2:00:00", PATH=cluster.path)
    until(lambda: checkpoints(place, "cancelled", 0))
    cluster.call("scancel", "1001")
    said = processes.end(bench)
    assert records(place, "cancelled") == {0: undisturbed[0]} and resumptions(place, "cancelled") == {0: 1}
    assert cluster.jobs() == ["1001", "1002"] and cluster.starts("1001") == 1
    assert "stopped by something else, to be started again" in said and "failed once" not in said


@pytest.mark.gate
def test_ctrl_c_cancels_the_jobs_and_they_leave_checkpoints(place, undisturbed, cluster):
    bench = start(place, "stopped", "one", 0.6, "--slurm", "timeout_min=600", PATH=cluster.path)
    until(lambda: checkpoints(place, "stopped", 0))
    bench.send_signal(signal.SIGINT)
    processes.end(bench, code=75)
    until(lambda: cluster.state("1001").startswith("CANCELLED") or cluster.state("1001") == "COMPLETED")
    assert listed(place, "stopped") == {}
    processes.end(start(place, "stopped", "one", 0.0, PATH=cluster.path))
    assert records(place, "stopped") == {0: undisturbed[0]} and resumptions(place, "stopped") == {0: 1}


@pytest.mark.gate
def test_a_full_slurm_is_waited_for_and_what_is_asked_for_stands_in_the_job(place, undisturbed, cluster):
    cluster.refuse("QOSMaxSubmitJobPerUserLimit", 2)
    words = ["--time", "1-02", "--partition", "big", "--account", "us"]
    said = processes.end(start(place, "full", "one", 0.0, *words, PATH=cluster.path))
    assert records(place, "full") == {0: undisturbed[0]} and "failed once" not in said
    log = next((place / "full" / "runs" / "logs").iterdir()).read_text()
    assert log.count("not submitted, again in") == 2 and "QOSMaxSubmitJobPerUserLimit" in log
    asked = cluster.script("1001")
    for flag in ("--time=1560", "--partition=big", "--account=us", "--cpus-per-task=1"):
        assert f"#SBATCH {flag}\n" in asked
    assert "gpus" not in asked  # CSKD_BENCH_DEVICE=cpu


@pytest.mark.gate
def test_a_partition_that_is_not_there_is_a_failure_in_words(place, cluster):
    cluster.refuse("invalid partition specified: nosuch", 4)
    said = processes.end(start(place, "refused", "one", 0.0, "--partition", "nosuch", PATH=cluster.path), code=1)
    assert "not submitted: " in said and "invalid partition specified: nosuch" in " ".join(said.split())

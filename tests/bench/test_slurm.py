"""Cells as jobs: time limits, preemption, a bench that is killed, a Slurm that takes no more, what is asked of it."""

import json
import os
import signal
import time

import pytest
from helpers import processes
from helpers.benches import OF_ONE_RUN
from helpers.tiny import write_run

from cskd_bench.record import read_record

pytest.importorskip("submitit", reason="the slurm extra is not installed")
TINY = {"name": "tiny", "method.kind": "supervised", "student.patch_size": 16, "student.depth": 1}
TINY |= {"recipe.epochs": 6, "recipe.ema_decay": 0.0, "run.save_every": 1}
HELD = """
import os, threading, time
from pathlib import Path
from cskd_bench import stopping

PLACE, JOB = Path(os.environ["HOLD"]), {"SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID"} & set(os.environ)


class Held(stopping.Stop):
    looks = 0

    @property
    def requested(self):
        if JOB and threading.current_thread() is threading.main_thread():
            self.looks += 1
            if self.looks == 11 and claimed():
                while not self.asked and not (PLACE / "go").exists():
                    time.sleep(0.02)
        return self.asked

    @requested.setter
    def requested(self, asked):
        self.asked = asked


def claimed():
    for place in PLACE.glob("cell*"):
        try:
            place.unlink()
            return True
        except FileNotFoundError:
            pass
    return False


stopping.Stop = Held
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of two small runs, and what holds their steps."""
    folder = tmp_path_factory.mktemp("slurm")
    write_run(folder / "student.toml", {**TINY, "data.root": colour_squares})
    for name, seeds in (("two", "[0, 1]"), ("one", "[0]")):
        (folder / f"{name}.toml").write_text(
            f'students = ["student.toml"]\nseeds = {seeds}\nmethods = ["supervised"]\n'
        )
    (folder / "held").mkdir()
    (folder / "held" / "sitecustomize.py").write_text(HELD)
    return folder


@pytest.fixture(scope="module")
def undisturbed(place):
    """The records of both runs, by their seeds, as a plain bench makes them."""
    processes.end(start(place, "undisturbed", "two", executor="local"))
    return records(place, "undisturbed")


def start(place, output, plan, *words, held=0, executor="slurm", **more) -> processes.Started:
    """Start a bench whose first `held` jobs wait halfway for a request to stop, or until they may go."""
    hold = place / output / "hold"
    hold.mkdir(parents=True, exist_ok=True)
    for number in range(held):
        (hold / f"cell{number}").touch()
    path = os.pathsep.join([str(place / "held"), os.environ.get("PYTHONPATH", "")])
    command = [*processes.CSKD_BENCH, "bench", f"{plan}.toml", "--executor", executor, "--threads", "1"]
    command += ["--runs", f"{output}/runs", "--results", f"{output}/results", "--parallel", "2", *words]
    return processes.start(command, cwd=place, PYTHONPATH=path, HOLD=str(hold), **more)


def let_go(place, output) -> None:
    """Let the jobs go on that are held."""
    (place / output / "hold" / "go").touch()


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


def until_held(place, output) -> None:
    """Wait until the jobs that are to be held are, with a checkpoint behind them."""
    until(lambda: not list((place / output / "hold").glob("cell*")))
    assert list((place / output / "runs").glob("*/checkpoints/step-*"))


def until_taken_over(place, output, plan, bench) -> None:
    """Wait until a bench says that all its cells run."""
    file = place / output / "runs" / "bench" / f"{plan}.json"

    def runs():
        told = json.loads(file.read_text())
        return told["pid"] == bench.pid and all(cell["state"] == "running" for cell in told["cells"])

    until(runs)


@pytest.mark.gate
def test_on_submitits_local_cluster_a_time_out_and_a_sigterm_cost_no_attempt(place, undisturbed):
    bench = start(place, "local", "two", "--slurm", "cluster=local", "--time", "1", held=2)
    until_held(place, "local")
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
    words = ["--time", "12:00:00", "--slurm", "slurm_signal_delay_s=200"]  # 10 s of ours for checkpoints
    bench = start(place, "timed", "two", *words, held=2, PATH=cluster.path)
    until_held(place, "timed")
    for job in cluster.jobs():
        cluster.let_time_pass(job)
    said = processes.end(bench)
    assert records(place, "timed") == undisturbed
    assert min(resumptions(place, "timed").values()) >= 1
    assert len(cluster.jobs()) == 2 and min(cluster.starts(job) for job in cluster.jobs()) >= 2
    assert "failed once" not in said and "stopped" not in said and listed(place, "timed") == {}


@pytest.mark.gate
def test_a_bench_that_is_killed_leaves_its_jobs_to_the_next(place, undisturbed, cluster):
    bench = start(place, "killed", "two", held=2, PATH=cluster.path)
    until_held(place, "killed")
    os.kill(bench.pid, signal.SIGKILL)
    processes.finish(bench)
    jobs = listed(place, "killed")
    assert sorted(jobs.values()) == cluster.jobs() == ["1001", "1002"]
    assert [cluster.state(job) for job in cluster.jobs()] == ["RUNNING", "RUNNING"]
    bench = start(place, "killed", "two", PATH=cluster.path)
    until_taken_over(place, "killed", "two", bench)
    let_go(place, "killed")
    said = processes.end(bench)
    assert records(place, "killed") == undisturbed
    assert cluster.jobs() == ["1001", "1002"] and "failed once" not in said and listed(place, "killed") == {}


@pytest.mark.gate
def test_submitits_local_jobs_are_taken_over_too(place, undisturbed):
    bench = start(place, "taken", "one", "--slurm", "cluster=local", held=1)
    until_held(place, "taken")
    jobs = listed(place, "taken")
    os.kill(bench.pid, signal.SIGKILL)
    bench.wait()
    bench = start(place, "taken", "one", "--slurm", "cluster=local")
    until_taken_over(place, "taken", "one", bench)
    let_go(place, "taken")
    processes.end(bench)
    assert records(place, "taken") == {0: undisturbed[0]} and resumptions(place, "taken") == {0: 0}
    submitted = (place / "taken" / "runs" / "slurm").glob("*_submitted.pkl")
    assert [path.name.split("_")[0] for path in submitted] == list(jobs.values())


@pytest.mark.gate
def test_a_job_that_a_person_cancels_is_submitted_again_by_the_bench_alone(place, undisturbed, cluster):
    bench = start(place, "cancelled", "one", "--time", "2:00:00", held=1, PATH=cluster.path)
    until_held(place, "cancelled")
    cluster.call("scancel", "1001")
    said = processes.end(bench)
    assert records(place, "cancelled") == {0: undisturbed[0]} and resumptions(place, "cancelled") == {0: 1}
    assert cluster.jobs() == ["1001", "1002"] and cluster.starts("1001") == 1
    assert "stopped by something else, to be started again" in said and "failed once" not in said


@pytest.mark.gate
def test_ctrl_c_cancels_the_jobs_and_they_leave_checkpoints(place, undisturbed, cluster):
    bench = start(place, "stopped", "one", "--slurm", "timeout_min=600", held=1, PATH=cluster.path)
    until_held(place, "stopped")
    bench.send_signal(signal.SIGINT)
    processes.end(bench, code=75)
    until(lambda: cluster.state("1001").startswith("CANCELLED") or cluster.state("1001") == "COMPLETED")
    assert listed(place, "stopped") == {}
    processes.end(start(place, "stopped", "one", PATH=cluster.path))
    assert records(place, "stopped") == {0: undisturbed[0]} and resumptions(place, "stopped") == {0: 1}


@pytest.mark.gate
def test_a_full_slurm_is_waited_for_and_what_is_asked_for_stands_in_the_job(place, undisturbed, cluster):
    cluster.refuse("QOSMaxSubmitJobPerUserLimit", 2)
    words = ["--time", "1-02", "--partition", "big", "--account", "us"]
    said = processes.end(start(place, "full", "one", *words, PATH=cluster.path))
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
    said = processes.end(start(place, "refused", "one", "--partition", "nosuch", PATH=cluster.path), code=1)
    assert "not submitted: " in said and "invalid partition specified: nosuch" in " ".join(said.split())

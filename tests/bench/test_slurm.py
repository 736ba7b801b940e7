"""Cells as jobs: time limits, preemption, a bench that is killed, a Slurm that takes no more, what is asked of it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import processes
from helpers.fake_slurm import FakeSlurm
from helpers.tiny import write_run

from cskd_bench.bench import slurm, slurm_cell
from cskd_bench.bench.plan import PretrainCell, Resources
from cskd_bench.bench.slurm import Slurm
from cskd_bench.bench.slurm_cell import JobList, SlurmCell
from cskd_bench.bench.slurm_options import default_gpus, is_for_now, minutes, parameters
from cskd_bench.bench.work import CellJob, Ended, Places
from cskd_bench.config import PretrainConfig, Supervised
from cskd_bench.errors import UserError
from cskd_bench.record import read_record

pytest.importorskip("submitit", reason="the slurm extra is not installed")
TINY = {"name": "tiny", "method.kind": "supervised", "student.patch_size": 16, "student.depth": 1}
TINY |= {"recipe.epochs": 6, "recipe.ema_decay": 0.0, "run.save_every": 1}
OF_ONE_RUN = {"created", "started", "resumptions", "cost", "command", "argv", "code"}
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


@pytest.fixture
def cluster(tmp_path):
    """A fake Slurm in which twenty seconds pass in one."""
    made = FakeSlurm(tmp_path / "fake", seconds=0.05, gres="gpu:a100:4")
    yield made
    made.end()


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


def job(folder, resources=None) -> CellJob:
    cell = PretrainCell(PretrainConfig(name="one", method=Supervised()), "")
    return CellJob.of(cell, Places(folder, folder), resources or Resources(1))


def sent(monkeypatch) -> list[str]:
    """Collect the job scripts that are submitted, and run none."""
    from submitit.core import utils

    scripts: list[str] = []

    def keep(self):
        scripts.append(Path(self.command[-1]).read_text())
        return f"Submitted batch job {len(scripts)}"

    monkeypatch.setattr(utils.CommandFunction, "__call__", keep)
    return scripts


def test_each_cell_asks_for_its_own_resources(tmp_path, monkeypatch, cluster):
    monkeypatch.setenv("PATH", cluster.path)
    scripts = sent(monkeypatch)
    executor = Slurm(Resources(2), tmp_path / "slurm", {})
    for resources in (Resources(2), Resources(3, 2.0), Resources(1, 4.0), Resources(2)):
        executor.start(job(tmp_path, resources))
    asked = [sorted(line for line in script.splitlines() if "per-" in line) for script in scripts]
    assert [[line.partition("=")[2] for line in lines] for lines in asked] == [["2"], ["3", "2"], ["4", "4"], ["2"]]
    own = Slurm(Resources(2, 1.0), tmp_path / "own", {"slurm_gres": "gpu:a100:1", "cpus_per_task": 9})
    own.start(job(tmp_path, Resources(2, 1.0)))
    assert "--gres=gpu:a100:1" in scripts[-1] and "gpus" not in scripts[-1] and "--cpus-per-task=9" in scripts[-1]


def test_a_gpu_is_the_default_where_the_partition_has_some(tmp_path, monkeypatch, cluster):
    monkeypatch.delenv("CSKD_BENCH_DEVICE", raising=False)
    monkeypatch.setenv("PATH", cluster.path)
    assert default_gpus({}) == default_gpus({"slurm_partition": "big"}) == 1
    assert default_gpus({"gpus_per_node": 2}) == 0
    monkeypatch.setenv("PATH", FakeSlurm(tmp_path / "none").path)
    assert default_gpus({}) == 0
    monkeypatch.setattr("cskd_bench.device.gpu_count", lambda: 3)
    assert default_gpus({"cluster": "local"}) == 1


@pytest.mark.parametrize(
    ("words", "count"),
    [("90", 90), ("1:30", 2), ("02:30:00", 150), ("1-00", 1440), ("1-02:30", 1590), ("2-00:00:01", 2881)],
)
def test_slurms_ways_to_write_a_time(words, count):
    assert minutes(words) == count
    assert parameters(words, "", "", {})["timeout_min"] == count
    assert parameters("", "", "", {"slurm_time": words})["slurm_time"] == count


@pytest.mark.parametrize("words", ["", "0", "0:00", "-1", "1:2:3:4", "a", "1-", "٣"])
def test_what_is_no_time_is_refused(words):
    with pytest.raises(UserError, match="no time limit; write MINUTES"):
        minutes(words)


@pytest.mark.parametrize(
    ("words", "waits"),
    [
        ("AssocMaxSubmitJobLimit", True),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", True),
        ("QOSMaxWallDurationPerJobLimit\nJob violates accounting/QOS policy (job submit limit, ...)", False),
        ("Socket timed out on send/recv operation", True),
        ("Slurm temporarily unable to accept job: Resource temporarily unavailable", True),
        ("invalid partition specified: nosuch", False),
    ],
)
def test_which_refusals_are_waited_for(words, waits):
    assert is_for_now(f"sbatch: error: {words}") == waits


class Environment:
    """submitit's description of the job that this process is."""

    cluster, job_id = "slurm", "7"

    @staticmethod
    def _usr_sig() -> int:
        return signal.SIGUSR2


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """A cell whose work is a signal to itself, and which stands in the list as job 7."""
    import submitit

    monkeypatch.setattr(submitit, "JobEnvironment", Environment)
    monkeypatch.setattr(slurm_cell, "LISTED_WITHIN", 0.3)
    monkeypatch.chdir(tmp_path)

    def work(job, stop):
        os.kill(os.getpid(), signal.SIGUSR2)
        return Ended(interrupted=stop.requested)

    monkeypatch.setattr("cskd_bench.bench.work.work", work)
    jobs = JobList(tmp_path / "jobs.json", "slurm")
    jobs.note("one", "7")
    requeued = []
    previous = signal.signal(signal.SIGUSR2, lambda number, _: requeued.append(number))
    yield SlurmCell(job(tmp_path), jobs), jobs, requeued
    signal.signal(signal.SIGUSR2, previous)


def test_a_job_that_never_gets_further_is_not_requeued_for_ever(cell, tmp_path):
    run, _, requeued = cell
    steps = tmp_path / "one" / "checkpoints"
    for number in range(slurm_cell.MOST_FRUITLESS - 1):
        assert run() == Ended(interrupted=True)
        assert len(requeued) == number + 1
    (steps / "step-000000001").mkdir(parents=True)
    run._fruitless = 0  # as after an attempt that brought a checkpoint
    for _ in range(slurm_cell.MOST_FRUITLESS - 1):
        assert run() == Ended(interrupted=True)
    assert "its job's time was up 5 times before it got any further" in run().error
    assert len(requeued) == 2 * (slurm_cell.MOST_FRUITLESS - 1)
    assert run.checkpoint().function is run


def test_a_job_that_its_bench_lost_does_nothing(cell, capsys):
    run, jobs, requeued = cell
    jobs.note("one", "8")
    assert run() == Ended(interrupted=True)
    assert requeued == [] and "job 7 is not in" in capsys.readouterr().out


def test_the_list_of_jobs_survives_damage_and_other_clusters(tmp_path):
    jobs, other = JobList(tmp_path / "jobs.json", "slurm"), JobList(tmp_path / "jobs.json", "local")
    jobs.note("a", "1")
    other.note("b", "2")
    assert (jobs.read(), other.read()) == ({"a": "1"}, {"b": "2"})
    jobs.forget(["a", "never there"])
    assert (jobs.read(), other.read()) == ({}, {"b": "2"})
    (tmp_path / "jobs.json").write_text('{"a": 3}')
    assert jobs.read() == {}
    jobs.note("c", "4")
    assert jobs.read() == {"c": "4"}


def test_a_job_of_other_settings_is_cancelled_and_one_that_is_gone_forgotten(tmp_path, monkeypatch, cluster):
    monkeypatch.setenv("PATH", cluster.path)
    asked = sent(monkeypatch)
    here = job(tmp_path)
    Slurm(Resources(1), tmp_path / "slurm", {}).start(here)
    assert len(asked) == 1
    cancelled = []
    monkeypatch.setattr("submitit.SlurmJob.cancel", lambda self, check=True: cancelled.append(self.job_id))
    (cluster.folder / "1").mkdir()
    (cluster.folder / "1" / "state").write_text("RUNNING")
    assert Slurm(Resources(1), tmp_path / "slurm", {}).adopt([here]) == [here.cell]
    assert cancelled == []
    changed = PretrainCell(here.cell.config.model_copy(update={"seed": 5}), "")
    next_job = CellJob(changed, here.places, here.resources, here.folder, {})
    assert Slurm(Resources(1), tmp_path / "slurm", {}).adopt([next_job]) == [changed]
    assert cancelled == ["1"]
    next((tmp_path / "slurm").glob("*_submitted.pkl")).unlink()
    assert Slurm(Resources(1), tmp_path / "slurm", {}).adopt([here]) == []
    assert JobList(tmp_path / "slurm" / "jobs.json", "slurm").read() == {}


@pytest.mark.parametrize(
    ("state", "log", "expected"),
    [
        ("CANCELLED by 1000", "begun", Ended(interrupted=True)),
        ("PREEMPTED", "begun", Ended(interrupted=True)),
        ("NODE_FAIL", "begun", Ended(interrupted=True)),
        ("FAILED", "", Ended(interrupted=True)),
        ("FAILED", "begun", "its job 5 ended (FAILED) and left no answer"),
        ("TIMEOUT", "begun", "ran out of time before it could stop: ask for more with --time"),
        ("OUT_OF_MEMORY", "begun", "ran out of memory"),
    ],
)
def test_what_a_job_without_an_answer_means(state, log, expected, tmp_path, monkeypatch, cluster):
    from submitit import SlurmJob

    monkeypatch.setenv("PATH", cluster.path)
    monkeypatch.setattr(slurm, "PATIENCE", 0.0)
    (cluster.folder / "5").mkdir()
    (cluster.folder / "5" / "state").write_text(state)
    executor = Slurm(Resources(1), tmp_path / "slurm", {})
    (tmp_path / "slurm").mkdir(exist_ok=True)
    (tmp_path / "slurm" / "5_0_log.out").write_text(slurm_cell.BEGUN if log else "")
    there = SlurmJob(folder=tmp_path / "slurm", job_id="5")
    there.watcher.clear()
    executor._running[there] = job(tmp_path).cell
    ((_, ended),) = executor.collect_ended()
    assert ended == expected if isinstance(expected, Ended) else expected in ended.error

"""What a Slurm job is asked for and does, one rule at a time, without a bench."""

import os
import signal
from pathlib import Path

import pytest
from helpers.fake_slurm import FakeSlurm

from cskd_bench.bench import slurm, slurm_cell
from cskd_bench.bench.plan import PretrainCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.slurm import Slurm
from cskd_bench.bench.slurm_cell import JobList, SlurmCell
from cskd_bench.bench.slurm_options import default_gpus, is_for_now, minutes, parameters
from cskd_bench.bench.work import CellJob, Ended, Places
from cskd_bench.config import PretrainConfig, Supervised
from cskd_bench.errors import UserError

pytest.importorskip("submitit", reason="the slurm extra is not installed")


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

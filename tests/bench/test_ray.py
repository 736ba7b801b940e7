"""Cells on a Ray cluster: which one it is, what they are given there, and what becomes of them when a node goes."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import processes
from helpers.benches import STUDENT, records_in, write_task
from helpers.tiny import write_run

from cskd_bench.bench import local as local_processes
from cskd_bench.bench import ray_cluster, ray_start
from cskd_bench.bench.executor import GRACE
from cskd_bench.bench.plan import PretrainCell
from cskd_bench.bench.ray_start import RayPlace
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Ended, Places
from cskd_bench.cli import main
from cskd_bench.config import PretrainConfig, Supervised
from cskd_bench.errors import UserError
from cskd_bench.record import CodeRef, read_record
from cskd_bench.schema import shipped

pytestmark = pytest.mark.gate
ray = pytest.importorskip("ray", reason="the ray extra is not installed")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

PLAN = """
students = ["student.toml"]
seeds = [0, 1]
tasks = ["coloured.toml"]
task_settings = ["knn.k=3"]
methods = ["supervised"]
"""
CELLS = 6
CODE = Path(__file__).resolve().parents[2]
DEAD = "127.0.0.1:1"  # where no cluster is


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of 6 cells: 2 pretrainings of a second or more, and 2 transfers of each."""
    folder = tmp_path_factory.mktemp("plan")
    write_run(folder / "student.toml", {**STUDENT, "recipe.epochs": 80, "data.root": colour_squares})
    write_task(folder / "coloured.toml", colour_squares, ["linear", "knn"])
    (folder / "plan.toml").write_text(PLAN)
    return folder


@pytest.fixture(scope="module")
def undisturbed(place):
    """The records of a local bench of the plan."""
    processes.end(start(place, "local", "--parallel", "2"))
    found = records_in(place / "local" / "results")
    assert len(found) == CELLS
    return found


@pytest.fixture(scope="module")
def cluster():
    """A head that runs no cells, and one node of 2 CPUs that says it has 2 GPUs."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.add_node(num_cpus=2, num_gpus=2)
    yield found
    ray.shutdown()
    found.shutdown()


def start(place, output, *words, **more):
    places = ["--runs", f"{output}/runs", "--results", f"{output}/results"]
    command = [*processes.CSKD_BENCH, "bench", "plan.toml", *places, "--threads", "1", *words]
    return processes.start(command, cwd=place, **more)


def wait_for(happened, process):
    until = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < until, processes.finish(process)[0]
        time.sleep(0.05)


def job(name, folder, takes):
    cell = PretrainCell(PretrainConfig(name=name, method=Supervised()), "")
    return CellJob.of(cell, Places(folder, folder), takes)


def executor_on(address, shared, gpus=None, runtime_env=None):
    return ray_cluster.Ray(2, 1, gpus, Resources(), RayPlace(address, runtime_env), shared)


def ends(executor, count):
    ended, latest = {}, time.monotonic() + 120
    while len(ended) < count:
        assert time.monotonic() < latest
        ended |= {cell.name: end for cell, end in executor.collect_ended()}
    return ended


def in_training(node):
    """Return the run folder's name of the pretraining that a node of a cluster is at; empty where it is at none."""
    titles = []
    for child in processes.started_by(node.all_processes["raylet"][0].process.pid):
        with suppress(OSError):
            titles.append(Path(f"/proc/{child}/cmdline").read_bytes().decode().strip("\0 "))
    return next((title.removeprefix("ray::") for title in titles if title.startswith("ray::tiny")), "")


def test_a_node_that_is_killed_takes_no_cell_and_no_attempt_with_it(place, undisturbed):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes, doomed = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)], []

    def one_has_a_checkpoint():
        at = {in_training(node): node for node in nodes}
        doomed[:] = [node for name, node in at.items() if name and has_checkpoint(place / "lost" / "runs" / name)]
        return doomed

    try:
        process = start(place, "lost", "--executor", "ray", "--ray-address", cluster.address, "--parallel", "2")
        wait_for(one_has_a_checkpoint, process)
        cluster.remove_node(doomed[0], allow_graceful=False)
        said = processes.end(process)
    finally:
        cluster.shutdown()
    assert "stopped by something else, to be started again: tiny" in said
    assert "failed" not in said
    assert records_in(place / "lost" / "results") == undisturbed


def has_checkpoint(run):
    return any(run.glob("checkpoint*")) and not (run / "run.json").exists()


def test_one_that_is_started_here_gives_the_same_records_and_stops_at_ctrl_c(place, undisturbed):
    words = ["--executor", "ray", "--parallel", "2", "--ray-address", "local"]
    process = start(place, "here", *words, RAY_ADDRESS=DEAD)
    runs = [place / "here" / "runs" / f"tiny_supervised_s{seed}" for seed in (0, 1)]
    wait_for(lambda: any(map(has_checkpoint, runs)), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the bench and to what it started
    began = time.monotonic()
    processes.end(process, 75)
    assert time.monotonic() - began < GRACE
    assert any(map(has_checkpoint, runs))
    logs = "".join(file.read_text() for file in (place / "here" / "runs" / "logs").glob("tiny_*"))
    assert "Traceback" not in logs
    said = processes.end(start(place, "here", *words, RAY_ADDRESS=DEAD))
    assert "failed" not in said
    found = [read_record(path) for path in (place / "here" / "results" / "records").glob("*pretrain*.json")]
    assert max(record.resumptions for record in found) == 1
    assert records_in(place / "here" / "results") == undisturbed


def test_the_clusters_gpus_are_resources_whatever_the_bench_itself_sees(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda:3")

    def tell(job):
        time.sleep(2.0)  # all are there at the same time
        return Ended(f"{os.environ['CUDA_VISIBLE_DEVICES']} {job.environment['CSKD_BENCH_DEVICE']}")

    executor, seen = executor_on(cluster.address, [tmp_path]), {}
    executor._work = ray.remote(max_retries=0)(tell)
    for gpus, count in ((executor.takes.gpus, 2), (0.5, 2), (2.0, 1)):
        for number in range(count):
            executor.start(job(f"c{number}", tmp_path, Resources(1, gpus)))
        seen[gpus] = sorted(end.error for end in ends(executor, count).values())
    executor.close()
    assert seen[1] == ["0 cuda", "1 cuda"]
    assert seen[0.5] in (["0 cuda", "0 cuda"], ["1 cuda", "1 cuda"])
    assert seen[2.0] == ["0,1 cuda"]


def test_the_cpu_is_taken_where_it_is_asked_for_and_no_gpu_with_it(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    executor = executor_on(cluster.address, [tmp_path])
    started = []
    monkeypatch.setattr(executor, "_work", Recording(started))
    executor.start(job("one", tmp_path, executor.takes))
    executor.close()
    assert executor.takes == Resources(1, 0)
    assert [(options["num_gpus"], told.environment) for options, told in started] == [(0, {"CSKD_BENCH_DEVICE": "cpu"})]


class Recording:
    """Stands for a Ray function: keeps what it is asked for."""

    def __init__(self, kept):
        self._kept, self._options = kept, {}

    def options(self, **options):
        self._options = options
        return self

    def remote(self, job):
        self._kept.append((self._options, job))
        return "a reference"


def test_a_cells_process_gets_the_gpu_that_ray_gave_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    import telling_work

    monkeypatch.setattr(local_processes, "_work", telling_work.work)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda:3")
    asked = replace(job("one", tmp_path, Resources(1, 1)), environment={"CSKD_BENCH_DEVICE": "cuda"})
    for given in ("1", "0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        seen = json.loads(ray_cluster.work_apart(asked).error)
        assert (seen["CUDA_VISIBLE_DEVICES"], seen["CSKD_BENCH_DEVICE"]) == (given, "cuda")


def test_a_worker_that_is_killed_costs_its_cell_an_attempt_and_no_other_cell(cluster, tmp_path):
    def die(job):
        if job.cell.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.cell.name == "unfit":
            raise OSError("no such place")
        return Ended()

    executor = executor_on(cluster.address, [tmp_path], 0.0)
    executor._work = ray.remote(max_retries=0)(die)
    for name in ("killed", "unfit", "well"):
        executor.start(job(name, tmp_path, executor.takes))
    ended = ends(executor, 3)
    executor.close()
    assert ended["killed"].error.startswith("WorkerCrashedError: ") and not ended["killed"].interrupted
    assert ended["unfit"].error == "OSError: no such place"
    assert ended["well"] == Ended()


def test_what_no_node_could_ever_give_is_refused(cluster, tmp_path):
    with pytest.raises(UserError, match=r"--threads and --gpus: a cell takes 1 CPUs and 3 GPUs, and no node .* 2 GPUs"):
        executor_on(cluster.address, [tmp_path], 3.0)
    place, teacher = RayPlace(cluster.address), Resources(8, 0)
    with pytest.raises(
        UserError, match=r"teacher_threads and teacher_gpus: a cell takes 8 CPUs and 1 GPUs, and no node"
    ):
        ray_cluster.Ray(2, 1, 1.0, teacher, place, [tmp_path])


def test_a_node_that_sees_other_folders_or_runs_other_code_is_named(cluster, tmp_path, monkeypatch):
    ray.init(cluster.address, log_to_driver=False)
    nodes = ray_start.check_room(ray, {"": Resources(1, 1)})
    ray_start.check_nodes(ray, nodes, str(tmp_path), [tmp_path])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"Ray node .* does not see /nowhere of this machine"):
        ray_start.check_nodes(ray, nodes, "/nowhere", [tmp_path])
    monkeypatch.setattr(ray_start, "code_ref", lambda: CodeRef(version="1", commit="c" * 40, dirty=False))
    with pytest.raises(UserError, match=r"Ray node .* would run cskd-bench .*, the bench is 1 of commit cccccccccccc"):
        ray_start.check_nodes(ray, nodes, str(tmp_path), [tmp_path])
    ray.shutdown()
    with pytest.raises(UserError, match=r"Ray node .* would run cskd-bench"):  # a bench asks all this
        ray_cluster.Ray(1, 1, None, Resources(), RayPlace(cluster.address), [tmp_path])


def test_what_ray_ships_reaches_the_cells(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DATA", "/of/the/bench")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "shipped.txt").touch()
    file = tmp_path / "env.toml"
    file.write_text(f'working_dir = "{tmp_path}/here"\nenv_vars = {{WORD = "said", PYTHONPATH = "{CODE}"}}\n')

    def tell(job):
        os.chdir(job.folder)
        return Ended(f"{os.environ['CSKD_BENCH_DATA']} {os.environ['WORD']} {[path.name for path in Path().iterdir()]}")

    with pytest.raises(UserError, match=r"results: with a working_dir .* as whole paths"):
        executor_on(DEAD, [Path("results")], 0.0, file)  # before anything is shipped
    executor = executor_on(cluster.address, [tmp_path], 0.0, file)
    executor._work = ray.remote(max_retries=0)(tell)
    executor.start(job("one", tmp_path, executor.takes))
    told = ends(executor, 1)["one"].error
    executor.close()
    assert told == "/of/the/bench said ['shipped.txt']"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ray-address", "nosuch"], "--ray-address nosuch"),
        (["--ray-address", "127.0.0.1:2"], "--ray-address 127.0.0.1:2: no Ray cluster"),
        (["--ray-address", "[::1]:99999"], "--ray-address [::1]:99999: no Ray cluster"),
        (["--ray-address", "auto"], f"RAY_ADDRESS {DEAD}: no Ray cluster"),
        ([], f"RAY_ADDRESS {DEAD}: no Ray cluster answers there"),
        (["--ray-runtime-env", "nowhere.toml"], "nowhere.toml"),
        (["--ray-runtime-env", "list.json"], "list.json: holds no table"),
        (["--ray-runtime-env", "broken.json"], "broken.json: cannot be read as JSON"),
        (["--ray-runtime-env", "wrong.toml"], "wrong.toml: Ray refuses it"),
    ],
)
def test_wrong_words_for_a_cluster_are_named(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", DEAD)  # of a cluster that is gone; `auto` reads it too
    monkeypatch.chdir(tmp_path)
    for name, text in (("list.json", "[1]"), ("broken.json", "{"), ("wrong.toml", "pip = 3")):
        (tmp_path / name).write_text(text)
    plan = str(shipped("configs") / "benchmarks" / "quickstart.toml")
    assert main(["bench", plan, "--executor", "ray", *words]) == 2
    assert said in capsys.readouterr().err

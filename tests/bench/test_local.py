"""Cells on this machine: one process each, GPUs handed out, several ranks for one cell."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers import processes
from helpers.tiny import write_run
from rich.console import Console

from cskd_bench.bench import local
from cskd_bench.bench.gpus import Gpus
from cskd_bench.bench.plan import Benchmark, Cells, PretrainCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.runner import Share, run_plan
from cskd_bench.bench.work import CellJob, Ended, Places, work
from cskd_bench.cli import main
from cskd_bench.config import PretrainConfig, Supervised, load_config
from cskd_bench.device import gpu_environment
from cskd_bench.errors import UserError
from cskd_bench.record import read_record

TINY = {"method.kind": "supervised", "student.patch_size": 16, "student.depth": 1, "recipe.ema_decay": 0.0}


@pytest.fixture
def plan(tmp_path, colour_squares):
    """A folder with a plan of one supervised run."""
    write_run(tmp_path / "student.toml", {**TINY, "data.root": colour_squares, "run.save_every": 1})
    (tmp_path / "plan.toml").write_text('students = ["student.toml"]\nseeds = [0]\nmethods = ["supervised"]\n')
    return tmp_path


def job(name: str, folder: Path, resources: Resources) -> CellJob:
    return CellJob.of(
        PretrainCell(PretrainConfig(name=name, method=Supervised()), ""), Places(folder, folder), resources
    )


@pytest.mark.gate
def test_a_process_whose_context_is_dead_costs_one_attempt_and_no_other_cell(tmp_path, colour_squares, monkeypatch):
    """Eight cells, of which the first leaves its process as CUDA does after an assertion: nothing works there again."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    import crashing_work

    monkeypatch.setattr(local, "_work", crashing_work.poisoned)
    file = write_run(tmp_path / "student.toml", {**TINY, "data.root": colour_squares, "recipe.epochs": 1})
    configs = [load_config(file, [f"name=run{seed}", f"seed={seed}"]) for seed in range(8)]
    cells = Cells(None, [PretrainCell(config, "") for config in configs], [])
    places = Places(tmp_path / "runs", tmp_path / "results")
    console = Console(file=(tmp_path / "said").open("w"), width=200)
    outcome = run_plan(cells, places, local.Local(1), Share(1, Resources(1)), console=console)
    console.file.close()
    said = (tmp_path / "said").read_text()
    assert (outcome.done, outcome.failures) == (8, {})
    assert (
        said.count("failed once, to be tried again in 1 s: run0: RuntimeError: CUDA error") == said.count("failed") == 1
    )


@pytest.mark.gate
def test_a_cell_starts_within_a_second(tmp_path, monkeypatch):
    """The imports are paid for once: each cell is forked from a server that has loaded torch."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    import crashing_work

    monkeypatch.setattr(local, "_work", crashing_work.look_at_clock)
    executor = local.Local(1)
    try:
        took = []
        for number in range(6):
            began = time.time()
            executor.start(job(f"cell{number}", tmp_path, Resources(1)))
            ended = []
            while not ended:
                ended = executor.collect_ended()
            took.append(float(ended[0][1].error) - began)  # until all that training needs was imported
    finally:
        executor.close()
    assert sorted(took[1:])[2] < 1.0, took


@pytest.mark.gate
def test_two_ranks_train_one_cell_and_a_stop_reaches_both(plan):
    """With CSKD_BENCH_DEVICE=cpu two GPUs are two processes; SIGTERM to the bench leaves a checkpoint to go on from."""
    words = ["bench", "plan.toml", "--threads", "2", "--gpus", "2", "--set", "recipe.epochs=16"]
    process = processes.start([*processes.CSKD_BENCH, *words], cwd=plan)
    wait_for_checkpoint(plan)
    process.send_signal(signal.SIGTERM)
    processes.end(process, 75)
    processes.run_cskd_bench(*words, cwd=plan)
    (path,) = (plan / "results" / "records").glob("*.json")
    record = read_record(path)
    assert record.hardware.world == 2 and record.resumptions == 1


@pytest.mark.gate
def test_ranks_end_when_the_cell_that_waits_for_them_is_killed(plan):
    words = ["bench", "plan.toml", "--threads", "2", "--gpus", "2", "--set", "recipe.epochs=20000"]
    process = processes.start([*processes.CSKD_BENCH, *words], cwd=plan)
    wait_for_checkpoint(plan)
    started = processes.started_by(process.pid)
    ranks = [one for one in started if "cskd_bench.bench.ranks" in command_of(one)]
    (launcher,) = [one for one in ranks if "torch.distributed.run" in command_of(one)]
    folder = Path(command_of(launcher).split()[-1])
    assert (folder / "job").exists()
    (cell,) = [one for one in started if launcher in processes.children_of(one)]
    process.send_signal(signal.SIGSTOP)  # so that the cell is not started again
    os.kill(cell, signal.SIGKILL)
    until = time.monotonic() + 60
    while any(command_of(one) for one in ranks) and time.monotonic() < until:
        time.sleep(0.1)
    left = [command_of(one) for one in ranks if command_of(one)]
    processes.kill(process)
    process.wait()
    assert len(ranks) == 3 and not left and not folder.exists()


@pytest.mark.gate
def test_ctrl_c_in_a_terminal_while_the_imports_are_paid_for_is_one_line(plan):
    """A terminal sends it to all: to the server too, which says nothing."""
    words = [*processes.CSKD_BENCH, "bench", "plan.toml", "--threads", "1"]
    process = processes.start(words, cwd=plan)
    until = time.monotonic() + 60
    while not (servers := [one for one in processes.started_by(process.pid) if "forkserver" in command_of(one)]):
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(os.getpgid(servers[0]), signal.SIGINT)
    said = processes.end(process, 75)
    assert "interrupted; the same command continues" in said and "Traceback" not in said


def wait_for_checkpoint(plan: Path) -> None:
    until = time.monotonic() + 120
    while not list((plan / "runs").glob("*/checkpoints/step-*")):
        assert time.monotonic() < until
        time.sleep(0.05)


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_gpus_are_handed_out_in_shares():
    gpus = Gpus(3)
    assert [gpus.take(0.0) for _ in range(4)] == [(0,), (1,), (2,), (0,)], "in turn, where none is asked for"
    gpus = Gpus(2)
    assert [gpus.take(0.5) for _ in range(4)] == [(0,), (1,), (0,), (1,)] and not gpus.fits(0.5)
    gpus.give_back((1,), 0.5)
    assert gpus.fits(0.5) and not gpus.fits(1.0)
    gpus.give_back((1,), 0.5)
    assert gpus.take(1.0) == (1,)
    gpus = Gpus(4)
    assert gpus.take(2.0) == (0, 1) and gpus.take(1.0) == (2,) and not gpus.fits(2.0)
    gpus.give_back((0, 1), 2.0)
    assert gpus.take(3.0) == (0, 1, 3)
    assert Gpus(0).take(0.0) == () and Gpus(0).take(1.0) == ()


def test_ninths_of_a_gpu_add_up_to_one():
    gpus = Gpus(1)
    gpus.check(1 / 9, 9)
    assert [gpus.take(1 / 9) for _ in range(9)] == [(0,)] * 9 and not gpus.fits(1 / 9)


@pytest.mark.parametrize(("share", "parallel", "enough"), [(1.0, 3, 2), (0.5, 5, 4), (2.0, 2, 1), (3.0, 1, 0)])
def test_more_cells_than_gpus_are_refused(share, parallel, enough):
    with pytest.raises(UserError, match=f"this machine has 2 GPUs, enough for {enough} cells"):
        Gpus(2).check(share, parallel)


def test_a_process_is_told_which_gpus_are_its_own():
    assert gpu_environment((), {}) == {}
    assert gpu_environment((1,), {"CSKD_BENCH_DEVICE": "cpu"}) == {}
    assert gpu_environment((1,), {"CUDA_VISIBLE_DEVICES": "4,6"}) == {"CSKD_BENCH_DEVICE": "cuda:1"}
    assert gpu_environment((0, 2), {}) == {"CUDA_VISIBLE_DEVICES": "0,2"}
    assert gpu_environment((0, 2), {"CUDA_VISIBLE_DEVICES": "4,6,7"}) == {"CUDA_VISIBLE_DEVICES": "4,7"}


def test_gpus_that_are_not_there_are_refused_in_words(monkeypatch):
    monkeypatch.delenv("CSKD_BENCH_DEVICE", raising=False)
    monkeypatch.setattr(local, "gpu_count", lambda: 0)
    with pytest.raises(UserError, match=r"--gpus 2: .* it has none; CSKD_BENCH_DEVICE=cpu tries it without"):
        local.Local(1, 2.0)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda:1")
    with pytest.raises(UserError, match="cuda:1 is chosen for all"):
        local.Local(1, 2.0)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    local.Local(1, 2.0)


def test_a_teacher_that_no_machine_could_hold_is_refused_before_it_is_waited_for(monkeypatch):
    monkeypatch.delenv("CSKD_BENCH_DEVICE", raising=False)
    monkeypatch.setattr(local, "gpu_count", lambda: 1)
    with pytest.raises(UserError, match="teacher_gpus 2: this machine has 1 GPUs"):
        local.Local(1, 0.0, teacher=2.0)
    local.Local(1, 0.0, teacher=1.0)
    for odd in (1.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="teacher_gpus"):
            Benchmark(students=("a",), methods=(Supervised(),), seeds=(0,), teacher_gpus=odd)


def test_more_threads_than_any_machine_has_are_refused(plan, monkeypatch, capsys):
    monkeypatch.chdir(plan)
    assert main(["bench", "plan.toml", "--threads", "99999999999"]) == 2
    assert "--threads 99999999999: a cell takes at most 4096" in capsys.readouterr().err
    assert not (plan / "runs").exists()


class Breaking(local.Local):
    """Cells of one machine, of which the first ends with an error whenever it is started."""

    stopped = False

    def start(self, job):
        self._unstarted.append((job.cell, Ended("UserError: no such data")))

    def stop(self):
        self.stopped = True


def test_a_bench_goes_on_where_failures_cannot_be_noted_and_asks_cells_to_stop_before_it_breaks(tmp_path, monkeypatch):
    cells = Cells(None, [job(f"run{seed}", tmp_path, Resources(1)).cell for seed in range(2)], [])
    places, executor = Places(tmp_path / "runs", tmp_path / "results"), Breaking(1)
    places.results.mkdir()
    (places.results / ".failures.lock").mkdir()
    with (tmp_path / "said").open("w") as file, pytest.raises(UserError, match=r"\.failures\.lock"):
        run_plan(cells, places, executor, Share(1, Resources(1)), console=Console(file=file, width=200))
    said = (tmp_path / "said").read_text()
    assert "failed: run0: " in said and "failed: run1: " in said and not executor.stopped
    monkeypatch.setattr(executor, "start", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_plan(cells, places, executor, Share(1, Resources(1)), console=Console(file=(tmp_path / "more").open("w")))
    assert executor.stopped


def test_a_log_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    ended = work(job("run", tmp_path, Resources(1)))
    assert ended.error.startswith("FileExistsError")


def test_how_a_cell_ended_stands_though_its_log_is_full(tmp_path, monkeypatch):
    """Closing writes the last messages; by then the record is kept."""
    monkeypatch.setattr("cskd_bench.bench.work.run_cell", lambda *_: print("trained"))
    monkeypatch.setattr(Places, "log", lambda *_: Path("/dev/full"))
    assert work(job("run", tmp_path, Resources(1))) == Ended()

"""A bench of 24 cells: interrupted three times, under other executors, with failures, on paper."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import processes
from helpers.benches import CELLS, records_in, write_plan

from cskd_bench.bench.plan import Cells, PretrainCell, expand, load_plan
from cskd_bench.bench.queue import Queue
from cskd_bench.bench.state import Found, refuse_unwritable_places
from cskd_bench.bench.work import Places
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import PretrainConfig
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.record import read_record
from cskd_bench.report.compare import compare
from cskd_bench.report.plans import read_plans
from cskd_bench.report.selection import select
from cskd_bench.schema import shipped

NEITHER_LINKS_NOR_LOCKS = """
import errno, fcntl, os

def refuse(*_, **__):
    with open({asked!r}, "a") as asked:
        asked.write(f"{{os.getpid()}}\\n")
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))

def no_locks(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

os.link, fcntl.flock, fcntl.lockf = refuse, no_locks, no_locks
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of 24 cells."""
    return write_plan(tmp_path_factory.mktemp("plan"), colour_squares)


def start(place: Path, output: str, *words: str) -> processes.Started:
    return processes.start(bench("plan.toml", output, *words), cwd=place)


def bench(plan: str, output: str, *words: str) -> list[str]:
    places = ["--runs", f"{output}/runs", "--results", f"{output}/results"]
    return [*processes.CSKD_BENCH, "bench", plan, *places, "--threads", "1", *words]


def finish(place: Path, output: str, *words: str, code: int = 0) -> str:
    return processes.end(start(place, output, *words), code)


def records(place: Path, output: str) -> dict[str, dict]:
    return records_in(place / output / "results")


def records_of(results: Path) -> list[Path]:
    return list((results / "records").glob("*.json"))


def interrupt(place: Path, output: str, number: int, at: int) -> None:
    """Start a bench and send a signal to it alone when `at` records are there; wait until its workers are gone."""
    process = start(place, output, "--parallel", "2")
    folder = place / output / "results" / "records"
    until = time.monotonic() + 120
    while len(list(folder.glob("*.json"))) < at and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, number)
    said, _ = processes.finish(process)  # the pipe closes when the last worker has ended
    assert process.returncode == (-9 if number == signal.SIGKILL else 75), said


@pytest.fixture(scope="module")
def local(place):
    """The plan under `local`: interrupted by SIGINT, SIGTERM and SIGKILL, then finished."""
    for number, at in ((signal.SIGINT, 2), (signal.SIGTERM, 8), (signal.SIGKILL, 14)):
        interrupt(place, "local", number, at)
    finish(place, "local", "--parallel", "2")
    return records(place, "local")


@pytest.mark.gate
def test_interrupted_three_times_every_cell_has_its_record(local, place):
    assert len(local) == CELLS
    assert not (place / "local" / "results" / "failures.json").exists()


@pytest.mark.gate
def test_the_plans_primary_contrast_is_registered_before_and_answered_after(local, place):
    results = place / "local" / "results"
    (plan,) = read_plans(results)
    first = min(record["created"] for record in map(json.loads, (p.read_text() for p in records_of(results))))
    assert plan.plan == "plan" and plan.registered <= first
    (answer,) = compare(results / "records", select(results / "records", include_dirty=True), [plan]).primary
    assert answer.name == "cskd − supervised" and answer.where == "coloured, linear probe"
    assert answer.seeds == 2


def test_a_finished_bench_starts_nothing(local, place):
    before = {path: path.stat().st_mtime_ns for path in (place / "local" / "results" / "records").iterdir()}
    assert f"{CELLS} of {CELLS} cells were finished before" in finish(place, "local")
    assert {path: path.stat().st_mtime_ns for path in (place / "local" / "results" / "records").iterdir()} == before


@pytest.mark.gate
def test_without_hard_links_and_locks_the_records_are_the_same(local, place, tmp_path):
    """As on Drive, FUSE and exFAT: no process of the bench can link or lock."""
    refusing = tmp_path / "refusing"
    refusing.mkdir()
    (refusing / "sitecustomize.py").write_text(NEITHER_LINKS_NOR_LOCKS.format(asked=str(tmp_path / "asked")))
    path = os.pathsep.join([str(refusing), os.environ.get("PYTHONPATH", "")])
    processes.end(processes.start(bench("plan.toml", "bare", "--parallel", "2"), cwd=place, PYTHONPATH=path))
    assert records(place, "bare") == local
    assert len(set((tmp_path / "asked").read_text().split())) > CELLS  # the bench's process and each cell's
    assert [path.name for path in (place / "bare" / "results").rglob(".*")] == []


@pytest.mark.gate
def test_a_finished_bench_is_read_where_nothing_can_be_written(local, place, monkeypatch):
    def refuse(folder):
        raise UserError(f"{folder}: cannot be written")

    monkeypatch.setattr("cskd_bench.bench.state.refuse_unwritable", refuse)
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
        assert refuse_unwritable_places(cells, Places(Path("local/runs"), Path("local/results"))) is None
        with pytest.raises(UserError, match="cannot be written"):
            refuse_unwritable_places(cells, Places(Path("none/runs"), Path("none/results")))
        monkeypatch.setattr("cskd_bench.cells.pretrain.run_lock", lambda *_: pytest.fail("a lock was made"))
        finished = cells.pretrain[0].config
        record = pretrain(finished, Path("local/runs"), Path("local/results"), Ranks(0, 1, torch.device("cpu")))
    assert record.id in local


@pytest.mark.gate
def test_a_folder_that_cannot_be_written_is_told_before_the_first_cell(place):
    (place / "taken").mkdir()
    (place / "taken" / "runs").write_text("a file")
    said = finish(place, "taken", code=2)
    assert "taken/runs is no folder; move it away, or name another folder" in said and "cells" not in said
    assert "24 cells, 0 finished" in finish(place, "taken", "--dry-run")


@pytest.mark.gate
def test_records_without_run_folders_count_until_a_transfer_needs_their_weights(local, place, tmp_path):
    """As in a clone of a repository that keeps records: what they hold is finished, on the images that are there."""
    shutil.copytree(place / "local" / "results", tmp_path / "results")
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
    places = Places(tmp_path / "runs", tmp_path / "results")
    assert len(Found(places).find_finished(cells)) == CELLS
    gone = next((tmp_path / "results" / "records").glob("fewer-knn-cskd-*-s1-*.json"))
    run = read_record(gone).checkpoint.run
    gone.unlink()
    left = {cell.name for cell in Queue(cells, Found(places)).left}
    assert left == {run, f"fewer knn {run}"}
    others = [replace(cell, config=elsewhere(cell.config, place)) for cell in cells.pretrain]
    assert Found(places).find_finished(Cells(None, others, [])) == {}
    for weights in ("nowhere.safetensors", ""):  # neither can be the file that the records' teacher had
        taught = [replace(cell, config=with_teacher(cell.config, weights)) for cell in cells.pretrain]
        assert set(Found(places).find_finished(Cells(None, taught, []))) == {"tiny_supervised_s0", "tiny_supervised_s1"}


def with_teacher(config, weights):
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": weights})})


def elsewhere(config, place):
    """The same settings, but the images of another folder: the test split's in place of the training ones."""
    root = Path(config.data.root)
    there = place / "other" / root.name
    if not there.exists():
        shutil.copytree(root / "test", there / "train")
        shutil.copytree(root / "val", there / "val")
    return config.model_copy(update={"data": config.data.model_copy(update={"root": str(there)})})


@pytest.mark.gate
def test_submitit_gives_the_same_records(local, place):
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    (place / "small.toml").write_text('students = ["student.toml"]\nseeds = [0]\n[[methods]]\nkind = "supervised"\n')
    words = ["--executor", "slurm", "--slurm", "cluster=local"]
    words += ["--set", "recipe.augment.view_size=64"]  # what the whole plan's cskd needs
    processes.end(processes.start(bench("small.toml", "slurm", *words), cwd=place))
    ((name, record),) = records(place, "slurm").items()
    assert record == local[name]


@pytest.mark.gate
def test_the_command_of_a_record_reruns_its_cell(local, place):
    """The command of a transfer's and of a pretraining's record, typed into another folder, gives that record."""
    made = [read_record(path) for path in (place / "local" / "results" / "records").glob("*.json")]
    chosen = [next(r for r in made if r.protocol == "pretrain" and r.method.kind == "cskd")]
    chosen.append(next(r for r in made if r.protocol == "knn" and r.checkpoint.run == chosen[0].checkpoint.run))
    for record in chosen:
        words = shlex.split(record.command.replace("local/", "again/"))
        assert words[0] == "cskd-bench"
        assert ("knn.k=3" in words) == (record.protocol == "knn")
        processes.run_cskd_bench(*words[1:], cwd=place)
    again = records(place, "again")
    assert {name: record["metrics"] for name, record in again.items()} == {
        record.id: record.metrics for record in chosen
    }


@pytest.mark.gate
def test_a_dry_run_says_what_is_finished_and_what_the_rest_would_cost(local, place):
    said = finish(place, "local", "--dry-run")
    assert f"{CELLS} cells, {CELLS} finished" in said
    assert f"{CELLS} cells, 0 finished; what is left: not measured" in finish(place, "nowhere", "--dry-run")


@pytest.mark.gate
def test_failures_are_listed_and_gone_when_the_next_start_succeeds(place, colour_squares):
    student = (place / "student.toml").read_text()
    plan = 'students = ["broken.toml"]\nseeds = [0]\ntasks = ["fewer.toml"]\n[[methods]]\nkind = "supervised"\n'
    (place / "broken.toml").write_text(student.replace(str(colour_squares), "nothing-here"))
    (place / "plan2.toml").write_text(plan)
    command = bench("plan2.toml", "broken")
    processes.end(processes.start(command, cwd=place), code=1)
    entries = json.loads((place / "broken" / "results" / "failures.json").read_text())
    assert [entry["error"] for entry in entries][1:] == ["not run: its pretraining failed"] * 2
    assert "nothing-here" in entries[0]["error"]
    (place / "broken.toml").write_text(student)
    processes.end(processes.start(command, cwd=place))
    assert json.loads((place / "broken" / "results" / "failures.json").read_text()) == []


@pytest.mark.gate
def test_a_bench_with_banks_labels_each_view_once_and_records_the_same(place):
    methods = '[[methods]]\nkind = "kd"\n[[methods]]\nkind = "deit"\n[[methods]]\nkind = "cskd"\n'
    (place / "plan3.toml").write_text('students = ["student.toml"]\nseeds = [0]\n' + methods)
    for output, words in (("taught", []), ("banked", ["--bank", "banks", "--parallel", "2"])):
        command = bench("plan3.toml", output, *words)
        processes.end(processes.start(command, cwd=place))
    (bank,) = (place / "banks").glob("[!.]*")
    assert len(list(bank.glob("epoch*/part*.json"))) == len(list(bank.glob("epoch*/part*.labels"))) == 3
    taught, banked = records(place, "taught"), records(place, "banked")
    assert taught.keys() == banked.keys() and len(taught) == 3
    for name, record in banked.items():
        assert record.pop("note") == "teacher labels from a bank" and taught[name].pop("note") == ""
        assert record.pop("labels_from") == "bank" and taught[name].pop("labels_from") == "teacher"
        if record["method"]["kind"] != "kd":  # kd's soft targets are kept in float16
            assert record == taught[name]
    command = [*command, "--dry-run"]
    said = processes.end(processes.start(command, cwd=place))
    row = next(line for line in said.splitlines() if f"bank {bank.name}" in line)
    assert "not needed" in row and row.rstrip().endswith("s") and "what is left: 0 s" in said
    for output in ("banked", "taught"):
        next((place / output / "runs").glob("*_deit_s0/run.json")).unlink()
        next((place / output / "results" / "records").glob("*-pretrain-deit-*.json")).unlink()
    said = processes.end(processes.start(command, cwd=place))
    assert "finished" in next(line for line in said.splitlines() if f"bank {bank.name}" in line)
    (bank / "epoch0002" / "part00000.labels").unlink()
    said = processes.end(processes.start(command, cwd=place))
    assert "67% labelled" in next(line for line in said.splitlines() if f"bank {bank.name}" in line)
    elsewhere = [word.replace("banked/", "taught/") for word in command]  # its records had the teacher in the loop
    said = processes.end(processes.start(elsewhere, cwd=place))
    assert "what is left: not measured" in said


@pytest.mark.gate
def test_a_retrained_teacher_makes_its_students_unfinished(local, place, tmp_path):
    """A plan's teacher is always model.safetensors: its name alone does not tell whose labels a student learnt."""
    found = Found(Places(place / "local" / "runs", place / "local" / "results"))
    summary = json.loads((place / "local" / "runs" / "tiny_cskd_s0" / "run.json").read_text())
    student = PretrainCell(PretrainConfig.model_validate_json(json.dumps(summary["config"])), "")
    assert found.record(student) is not None
    retrained = tmp_path / Path(student.config.teacher.weights).name
    retrained.write_bytes(Path(student.config.teacher.weights).read_bytes() + b" ")
    teacher = student.config.teacher.model_copy(update={"weights": str(retrained)})
    student = replace(student, config=student.config.model_copy(update={"teacher": teacher}))
    assert found.record(student) is None
    ranks = Ranks(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match=r"holds a finished run of teacher .*@.*, it is now .*@.*; choose another name"):
        pretrain(student.config, place / "local" / "runs", place / "local" / "results", ranks)


def test_a_run_of_another_release_is_one_sentence(tmp_path):
    cells = expand(load_plan(shipped("configs") / "benchmarks" / "quickstart.toml"), Path("plan.toml"))
    cell = cells.pretrain[0]
    file = tmp_path / "runs" / cell.name / "run.json"
    file.parent.mkdir(parents=True)
    (tmp_path / "results" / "records").mkdir(parents=True)
    for text in ('{"config": {"unheard_of": 1}}', "{}", "[]", "{"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"run.json: damaged, or of another release"):
            Found(Places(tmp_path / "runs", tmp_path / "results")).record(cell)

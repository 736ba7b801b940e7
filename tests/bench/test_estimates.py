"""What cells cost: like finished ones, else by FLOPs, else FLOPs alone."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.benches import write_task
from helpers.tiny import save_model, teacher, write_run

from cskd_bench.bench import dryrun
from cskd_bench.bench.costs import Costs, Expected
from cskd_bench.bench.plan import expand, load_plan
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import Places
from cskd_bench.cli import main
from cskd_bench.engine.estimate import estimate

PLAN = """
students = ["shallow.toml", "deep.toml"]
seeds = [0, 1]
methods = ["supervised", "kd"]
tasks = ["coloured.toml", "other.toml"]
teacher = "shallow_teacher.toml"
teacher_gpus = 2
teacher_threads = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of two students, two methods, two seeds and two tasks."""
    folder = tmp_path_factory.mktemp("plan")
    taught = teacher(save_model(folder / "teacher.safetensors", num_classes=3))
    for name, depth in (("shallow", 1), ("deep", 3)):
        write_run(
            folder / f"{name}.toml", {"name": name, "student.depth": depth, "data.root": colour_squares, **taught}
        )
    own = {"method.kind": "supervised", "student.depth": 2, "data.root": colour_squares}
    write_run(folder / "shallow_teacher.toml", {"name": "taught_by", **own})
    write_task(folder / "coloured.toml", colour_squares, ["finetune", "knn"])
    write_task(folder / "other.toml", colour_squares, ["knn", "linear"])
    (folder / "plan.toml").write_text(PLAN)
    return folder


class Records:
    """Stands for the records of a folder: those of finished cells of the plan, and others that are like some cell."""

    def __init__(self, alike=(), done=None, steps=None):
        self._alike, self._done, self._steps = dict(alike), done or {}, steps or {}

    def alike(self, cell, model, *, from_bank=False):
        return [record for record in self._alike.get(cell.kind, []) if record.model == model]

    def step(self, cell):
        return self._steps.get(cell.name, 0)

    def find_finished(self, cells):
        return self._done


def record(seconds, rate=0.0, model="", recipe=""):
    return SimpleNamespace(model=model, recipe=recipe, cost=SimpleNamespace(seconds=seconds, images_per_second=rate))


def costs_of(place, done=(), banked=(), **records):
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
    finished = {name: record(seconds) for name, seconds in dict(done).items()}
    places = Places(place / "runs", place / "results")
    by_name = {cell.name: cell for cell in cells.all()}
    return Costs(cells, Records(**records), finished, places, banked), by_name


def test_nothing_finished_says_nothing_but_flops(place):
    costs, cells = costs_of(place)
    for name in ("shallow_kd_s0", "coloured knn deep_kd_s0", "taught_by"):
        assert costs.expect(cells[name]) == Expected(None) and costs.flops(cells[name]) > 0
    for name in ("shallow_kd_s0", "deep_supervised_s0", "taught_by"):
        assert costs.flops(cells[name]) == estimate(cells[name].config).total_flops


def test_a_bank_saves_the_teachers_flops(place):
    costs, cells = costs_of(place, banked=["shallow_kd_s0"])
    size = estimate(cells["shallow_kd_s0"].config)
    taught, banked = costs.flops(cells["shallow_kd_s1"]), costs.flops(cells["shallow_kd_s0"])
    assert taught - banked == size.views * size.teacher_flops > 0


def test_another_size_is_scaled_by_flops(place):
    costs, cells = costs_of(place, done={"shallow_supervised_s0": 100.0, "shallow_supervised_s1": 300.0})
    one, other = (estimate(cells[name].config).total_flops for name in ("shallow_supervised_s0", "deep_kd_s0"))
    expected = costs.expect(cells["deep_kd_s0"])
    assert expected.about and expected.seconds == pytest.approx(200.0 * other / one)
    assert expected.seconds > 300.0


def test_finished_records_like_a_cell_come_before_flops(place):
    _, cells = costs_of(place)
    model = cells["deep_kd_s0"].config.model_name
    like = {"pretrain": [record(50.0, rate=8.0, model=model), record(70.0, rate=4.0, model=model)]}
    costs, cells = costs_of(place, done={"shallow_supervised_s0": 100.0}, alike=like)
    views = estimate(cells["deep_kd_s0"].config).views
    assert costs.expect(cells["deep_kd_s0"]) == Expected(views / 6.0)
    assert costs.expect(cells["shallow_kd_s0"]).about


def test_a_transfer_is_scaled_from_its_kind_then_its_protocol_then_any(place):
    costs, cells = costs_of(place, done={"coloured knn shallow_kd_s0": 10.0})
    ratio = costs.flops(cells["coloured knn deep_kd_s0"]) / costs.flops(cells["coloured knn shallow_kd_s0"])
    assert ratio > 1.5
    for name in ("coloured knn deep_kd_s0", "other knn deep_kd_s0", "other linear deep_kd_s0"):
        assert costs.expect(cells[name]) == (pytest.approx(10.0 * ratio), True)
    trained = costs.expect(cells["coloured finetune deep_kd_s0"]).seconds
    assert trained > 2 * 10.0 * ratio * 96 / 120, "two epochs forward and backward"


def test_a_cell_that_finishes_here_tells_of_those_like_it(place):
    costs, cells = costs_of(place)
    assert costs.expect(cells["deep_kd_s1"]) == Expected(None)
    costs.note_finish(cells["deep_kd_s0"], 40.0)
    assert costs.expect(cells["deep_kd_s1"]) == Expected(40.0)
    assert costs.expect(cells["deep_supervised_s0"]).about


def test_a_resumed_cell_tells_by_the_share_that_it_did(place):
    steps_of = {"deep_kd_s0": 1, "deep_kd_s1": 12}
    costs, cells = costs_of(place, steps=steps_of)
    steps, _ = costs.size(cells["deep_kd_s0"])
    assert steps == 12 and costs.left(cells["deep_kd_s0"]) == pytest.approx(11 / 12)
    steps_of["deep_kd_s0"] = 3  # another process went on with it
    costs.note_finish(cells["deep_kd_s1"], 1.0)  # nothing but its evaluation was left
    assert costs.expect(cells["deep_kd_s0"]) == Expected(None)
    costs.note_start(cells["deep_kd_s0"])
    steps_of["deep_kd_s0"] = 12
    costs.note_finish(cells["deep_kd_s0"], 30.0)
    assert costs.expect(cells["deep_kd_s1"]) == Expected(40.0)


def test_the_longest_like_a_cell_is_of_this_bench_else_of_records_of_its_recipe(place):
    costs, cells = costs_of(place, steps={"deep_kd_s1": 3})
    model, recipe = cells["deep_kd_s0"].config.model_name, cells["deep_kd_s0"].config.recipe_fingerprint()
    records = [record(50.0, model=model, recipe=recipe), record(70.0, model=model, recipe=recipe)]
    longer = record(900.0, model=model, recipe="longer")
    like = {"pretrain": [*records, longer], "other knn": [record(2.0, model=model)]}
    costs, cells = costs_of(place, alike=like, steps={"deep_kd_s1": 3})
    assert costs.longest(cells["deep_kd_s0"]) == 70.0 and costs.longest(cells["other knn deep_kd_s0"]) == 2.0
    assert costs.longest(cells["deep_kd_s1"]) == pytest.approx(70.0 * 9 / 12), "a quarter is done"
    for seconds in (80.0, 40.0):
        costs.note_finish(cells["deep_kd_s0"], seconds)
    assert costs.longest(cells["deep_kd_s0"]) == 80.0
    assert costs.longest(cells["shallow_kd_s0"]) is None, "what others took says nothing"


def test_missing_data_ends_no_estimate(place):
    costs, cells = costs_of(place, done={"coloured knn shallow_kd_s0": 10.0})
    cell = cells["other knn deep_kd_s0"]
    data = cell.task.data.model_copy(update={"root": str(place / "nowhere")})
    object.__setattr__(cell, "task", cell.task.model_copy(update={"data": data}))
    assert costs.size(cell) is None and costs.flops(cell) is None
    assert costs.expect(cell) == Expected(10.0, about=True)


def rows(said):
    """Return the lines of a dry run by the names of cells."""
    return {line.split("  ")[0].strip(): line for line in said.splitlines()}


def test_a_dry_run_shows_compute_and_marks_what_is_by_flops(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    done = {"shallow_kd_s0": record(1000.0)}
    monkeypatch.setattr(dryrun, "Found", lambda _: Records(done=done, steps={"deep_kd_s1": 6}))
    assert main(["bench", "plan.toml", "--dry-run", "--only", "deep_kd_*,shallow_kd_s0"]) == 0
    said = rows(capsys.readouterr().out)
    costs, cells = costs_of(place, done={"shallow_kd_s0": 1000.0})
    hours = costs.expect(cells["deep_kd_s0"]).seconds / 3600
    whole = costs.expect(cells["taught_by"]).seconds / 3600 + 1.5 * hours  # half of one is done
    assert f"  {costs.flops(cells['deep_kd_s0']) / 1e15:.3g}  " in said["deep_kd_s0"]
    assert f"about {hours:.2f} h" in said["deep_kd_s0"]
    assert "resumes from step 6" in said["deep_kd_s1"] and "finished" in said["shallow_kd_s0"]
    assert "taught_by (teacher, 2 GPUs, 3 threads)" in said
    (total,) = [line for line in said.values() if "what is left" in line]
    assert f"4 cells, 1 finished; what is left: about {whole:.2f} h" in total


def test_the_teacher_takes_what_the_plan_names(place):
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
    assert cells.teacher_takes == Resources(3, 2.0)

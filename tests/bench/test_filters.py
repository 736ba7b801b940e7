"""A part of a plan: by names, methods, seeds and tasks, with what it needs, and what goes first."""

import json

import pytest
from helpers.tiny import save_model, teacher, write_run

from cskd_bench.bench.asked import Asked
from cskd_bench.bench.plan import expand, load_plan
from cskd_bench.bench.runner import BenchResult
from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.schema import shipped

STUDENT = {"name": "tiny", "student.patch_size": 16, "student.depth": 1}
PLAN = """
students = ["student.toml"]
seeds = [0, 1]
tasks = ["digits"]
protocols = ["linear", "knn"]
methods = ["supervised", "kd", "cskd"]
[[primary]]
method = "cskd"
against = "kd"
"""


@pytest.fixture
def place(tmp_path, colour_squares, monkeypatch):
    """A folder, the working one, with a plan of 3 methods x 2 seeds x (1 + 2) cells."""
    weights = save_model(tmp_path / "teacher.safetensors", num_classes=3)
    write_run(tmp_path / "student.toml", {**STUDENT, "data.root": colour_squares, **teacher(weights)})
    (tmp_path / "plan.toml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys, *words):
    """Return the names of the cells that a dry run lists."""
    assert main(["bench", "plan.toml", "--dry-run", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.split("  ")[0].strip() for line in lines if "to do" in line]


def test_what_is_asked_for_is_shown_with_what_it_needs(place, capsys):
    needed, transfer = "tiny_cskd_s1", "digits knn tiny_cskd_s1"
    assert shown(capsys, "--only", "digits knn *_s1", "--methods", "cskd") == [needed, transfer]
    assert shown(capsys, "--seeds", "1", "--only", "tiny_*") == ["tiny_supervised_s1", "tiny_kd_s1", "tiny_cskd_s1"]
    assert len(shown(capsys, "--tasks", "digits", "--methods", "kd,cskd", "--seeds", "0,1")) == 4 + 8
    assert len(shown(capsys)) == 18


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "cskd,deit"], "--methods deit: the plan has supervised, kd, cskd"),
        (["--seeds", "7"], "--seeds 7: the plan has 0, 1"),
        (["--tasks", "cars"], "--tasks cars: the plan has digits"),
        (["--only", "zzz*"], "--only zzz*: no cell of the plan has such a name; --dry-run lists them ('tiny_"),
        (["--first", "zzz*"], "--first zzz*: no cell of the plan has such a name"),
        (["--only", "tiny_*", "--tasks", "digits"], "no cell of the plan is all that is asked for at once"),
    ],
)
def test_what_the_plan_has_not_is_refused_with_what_it_has(place, capsys, words, sentence):
    assert main(["bench", "plan.toml", "--dry-run", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_part_registers_the_whole_plans_contrasts_and_is_what_runs(place, monkeypatch, capsys):
    ran = {}

    def run_plan(cells, *_, only, first, plan, **__):
        ran.update(only=only, first=first, plan=plan)
        return BenchResult()

    monkeypatch.setattr("cskd_bench.bench.runner.run_plan", run_plan)
    asked = {f"{what}tiny_supervised_s{seed}" for what in ("", "digits linear ", "digits knn ") for seed in (0, 1)}
    assert main(["bench", "plan.toml", "--methods", "supervised", "--first", "*knn*_s1"]) == 0
    assert ran["only"] == asked and ran["plan"] == "plan"
    assert ran["first"] == {f"digits knn tiny_{method}_s1" for method in ("supervised", "kd", "cskd")}
    registered = json.loads((place / "results" / "plans" / "plan.json").read_text())
    assert [contrast["name"] for contrast in registered["contrasts"]] == ["cskd − kd"] and registered["seeds"] == [0, 1]
    assert main(["bench", "plan.toml"]) == 0
    assert ran["only"] is None and ran["first"] == set()


def test_labels_with_commas_are_whole():
    file = shipped("configs") / "benchmarks" / "paper.toml"
    cells = expand(load_plan(file), file)
    label = "cskd (decay=local)"
    local = Asked(methods=[f"{label},kd"], seeds=["2"]).choose(cells)
    assert local == {
        cell.name
        for cell in cells.all()
        if cell.name.endswith("_s2") and ("kd_s2" in cell.name or "decay" in cell.name)
        if "_cskd_s2" not in cell.name
    }
    both = Asked(methods=["cskd"]).choose(cells)
    assert len(both) == len(cells.all()) * 2 // 5, "of a kind, whatever its settings"
    with pytest.raises(UserError, match="--methods nothing: the plan has supervised, kd, deit, cskd, "):
        Asked(methods=["nothing"]).choose(cells)
    assert Asked().choose(cells) is None


def test_the_plans_teacher_is_compared_with_nothing_and_pulled_where_it_is_needed():
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    cells = expand(load_plan(file), file)
    assert cells.teacher.name not in Asked(methods=["supervised"]).choose(cells)
    assert cells.teacher.name in Asked(only=["*teacher"]).choose(cells)

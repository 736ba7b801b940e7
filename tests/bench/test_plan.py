"""Plans: what they expand to, and what is refused in them."""

import itertools
import shlex
from pathlib import Path

import pytest
from helpers.benches import STUDENT
from helpers.tiny import teacher, write_run

from cskd_bench.bench.plan import Benchmark, expand, load_plan
from cskd_bench.config import CSKD, load_config, method_label
from cskd_bench.errors import UserError
from cskd_bench.schema import shipped


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"students": ("no.toml",)}, "plan.toml: students: no file 'no.toml'"),
        ({"tasks": ("no_task",)}, "plan.toml: tasks: no task 'no_task'"),
        ({"tasks": ("digits",), "protocols": ("detect",)}, "plan.toml: protocols: no task of the plan"),
        ({"tasks": ("digits", "digits")}, "plan.toml: tasks and protocols: 'digits .*' would run twice"),
        ({"teacher": "configs/no.toml"}, "plan.toml: teacher: no file 'configs/no.toml'"),
        ({"task_settings": ("knn.depth=3",)}, "plan.toml: tasks with task_settings: .*knn.depth"),
    ],
)
def test_wrong_names_are_refused_with_file_and_key(changed, sentence):
    good = load_plan(shipped("configs") / "benchmarks" / "quickstart.toml")
    plan = Benchmark.model_validate({**dict(good), **changed})
    with pytest.raises(UserError, match=sentence):
        expand(plan, Path("plan.toml"))


@pytest.mark.parametrize("setting", ["seed=7", "name=mine", "method.alpha=0.1", "teacher.weights=other.safetensors"])
def test_an_override_of_what_the_plan_sets_is_refused(setting):
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    with pytest.raises(UserError, match=f"--set {setting}: the plan sets"):
        expand(load_plan(file), file, overrides=[setting])


def test_overrides_of_data_and_run_reach_the_plans_teacher_too():
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    cells = expand(load_plan(file), file, overrides=["run.workers=3", "recipe.epochs=2"])
    assert {cell.config.run.workers for cell in (cells.teacher, *cells.pretrain)} == {3}
    assert {cell.config.recipe.epochs for cell in cells.pretrain} == {2} != {cells.teacher.config.recipe.epochs}
    assert "--set run.workers=3" in cells.teacher.command and "recipe.epochs" not in cells.teacher.command


def test_a_plan_sets_the_method_whatever_a_students_file_says(tmp_path):
    (tmp_path / "student.toml").write_text('method = "cskd"\n[data]\nroot = "x"\nnum_classes = 2\n')
    good = load_plan(shipped("configs") / "benchmarks" / "quickstart.toml")
    plan = Benchmark.model_validate({**dict(good), "students": (str(tmp_path / "student.toml"),)})
    kinds = {cell.config.method.kind for cell in expand(plan, Path("plan.toml")).pretrain}
    assert kinds == {method.kind for method in good.methods} == {"supervised", "kd", "deit", "cskd"}


def test_a_methods_name_stands_for_its_table(tmp_path):
    (tmp_path / "plan.toml").write_text('students = ["a"]\nseeds = [0]\nmethods = ["vkd", "kd-nkd", {kind = "cskd"}]\n')
    assert [method_label(method) for method in load_plan(tmp_path / "plan.toml").methods] == ["vkd", "kd-nkd", "cskd"]


def test_all_methods_of_a_plan_see_views_of_one_size(tmp_path):
    """The teacher of this student works at 64 px, its supervised run alone would see views of 32 px."""
    write_run(tmp_path / "student.toml", {**STUDENT, "data.root": tmp_path, **teacher(tmp_path / "none")})
    methods = '[[methods]]\nkind = "supervised"\n[[methods]]\nkind = "cskd"\n'
    (tmp_path / "plan.toml").write_text(f'students = ["{tmp_path}/student.toml"]\nseeds = [0]\n{methods}')
    cells = expand(load_plan(tmp_path / "plan.toml"), tmp_path / "plan.toml").pretrain
    assert {cell.config.method.kind for cell in cells} == {"supervised", "cskd"}
    assert {cell.config.view_size for cell in cells} == {64}
    assert len({cell.config.recipe_fingerprint() for cell in cells}) == 1
    for cell in cells:
        words = shlex.split(cell.command)
        assert "recipe.augment.view_size=64" in words
        stated = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
        assert load_config(tmp_path / "student.toml", stated) == cell.config


def test_a_seed_that_stands_twice_is_named():
    with pytest.raises(ValueError, match="seeds: the same seed stands twice"):
        Benchmark(students=("a",), methods=(CSKD(),), seeds=(1, 1))


def test_all_methods_of_a_seed_come_before_the_next_seed():
    file = shipped("configs") / "benchmarks" / "evidence_cpu.toml"
    cells = expand(load_plan(file), file)
    assert [cell.config.seed for cell in cells.pretrain] == [1] * 5 + [2] * 5 + [3] * 5
    assert cells.pretrain[4].name == "imagenette64_cskd_decay_local_s1"


SHIPPED = {  # pretrainings, the teacher's among them, and transfers
    "quickstart": (1 + 20, 60),
    "quickstart_detection": (1 + 4, 4),
    "paper": (45, 180),
    "evidence_cpu": (15, 120),
    "evidence_cpu_5ep": (15, 0),
    "evidence_cpu_finetune": (15, 30),
    "evidence_cpu_mixing": (12, 0),
    "evidence_cpu_robustness": (15, 15),
    "evidence_cpu_teacher": (12, 0),
    "evidence_cpu_tin100": (15, 60),
    "evidence_cpu_tin100_5ep": (15, 0),
    "evidence_cpu_weight": (6, 0),
    "evidence_cpu_width": (9, 0),
    "evidence_gpu": (1 + 36, 0),
    "evidence_small_data": (36, 72),
    "evidence_small_data_gate": (2, 0),
    "evidence_kept_out": (37, 0),
    "methods": (1 + 26, 26),
}


@pytest.mark.parametrize("file", sorted((shipped("configs") / "benchmarks").glob("*.toml")), ids=lambda file: file.stem)
def test_every_shipped_plan_expands(file):
    cells = expand(load_plan(file), file)
    assert (len(cells.all()) - len(cells.transfer), len(cells.transfer)) == SHIPPED[file.stem]


def test_no_shipped_plan_is_gone():
    assert {file.stem for file in (shipped("configs") / "benchmarks").glob("*.toml")} == SHIPPED.keys()

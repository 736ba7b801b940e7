"""A plan's contrasts are kept before anything runs, in the words of its records, and never change afterwards."""

import contextlib
import json
from pathlib import Path

import pytest
from test_identities import stored

from cskd_bench.bench import registration
from cskd_bench.bench.plan import load_plan
from cskd_bench.bench.registration import register_plan, resolve_plan
from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.report.build import build_report
from cskd_bench.report.plans import read_plans
from cskd_bench.report.selection import method_of, student_of
from cskd_bench.schema import shipped

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
students = ["configs/imagenette64/cskd_5ep_teacher64.toml", "configs/imagenette64/cskd_5ep.toml"]
seeds = [1, 2, 3]
tasks = ["digits"]
protocols = ["linear"]
[[methods]]
kind = "supervised"
[[methods]]
kind = "cskd"
[[methods]]
kind = "cskd"
decay = "local"
"""
OWN = {"registered", "commit"}
FIRST = 'student = "configs/imagenette64/cskd_5ep_teacher64.toml"\n'


def write(folder, contrast, name="mine.toml"):
    path = folder / name
    path.write_text(f"{PLAN}\n[[primary]]\n{contrast}")
    return path


def test_an_arm_has_the_names_that_the_records_of_its_runs_have(tmp_path):
    """Held to this repository's own records: model, data, recipe, label, and the teacher without its hash."""
    words = 'method = "cskd"\nagainst = "cskd (decay=local)"\nother_student = "configs/imagenette64/15ep.toml"\n'
    file = write(tmp_path, words + 'student = "configs/imagenette64/cskd_5ep.toml"\n')
    (contrast,) = resolve_plan(load_plan(file), file).contrasts
    assert contrast.minus
    for arm in (contrast.first, contrast.second, *contrast.minus):
        of_student = [r for r in stored().values() if r.protocol == "pretrain" and arm.student == student_of(r)]
        found = {r.checkpoint.run for r in of_student if arm.is_of(method_of(r))}
        assert len(found) == 3, (arm, found)


def test_a_plan_is_registered_once_and_a_changed_one_is_refused(tmp_path):
    words = f'method = "cskd"\nagainst = "supervised"\n{FIRST}'
    file, results = write(tmp_path, words), tmp_path / "results"
    path = register_plan(file, results)
    kept = path.read_bytes()
    assert register_plan(file, results) == path and path.read_bytes() == kept
    write(tmp_path, words + "band = 0.5\n")
    with pytest.raises(UserError, match=r"mine.json: this plan was registered on 20..-..-.. with other contrasts"):
        register_plan(file, results)
    write(tmp_path, words)
    with pytest.raises(UserError, match="students or settings"):
        register_plan(file, results, overrides=["recipe.epochs=2"])
    file.write_text(file.read_text().replace("seeds = [1, 2, 3]", "seeds = [1, 2, 3, 4]"))
    with pytest.raises(UserError, match="other contrasts, seeds, students or settings"):
        register_plan(file, results)
    assert path.read_bytes() == kept


def test_seeds_are_registered_and_none_is_added_once_there_are_answers(tmp_path):
    file, results = write(tmp_path, f'method = "cskd"\nagainst = "supervised"\n{FIRST}'), tmp_path / "results"
    path = register_plan(file, results)
    assert read_plans(results)[0].seeds == (1, 2, 3)
    file.write_text(file.read_text().replace("seeds = [1, 2, 3]", "seeds = [3, 2, 1]"))
    assert register_plan(file, results) == path, "their order says nothing"
    file.write_text(file.read_text().replace("seeds = [3, 2, 1]", "seeds = [1, 2, 3, 4]"))
    with pytest.raises(UserError, match="with other contrasts, seeds"):
        register_plan(file, results)


@pytest.mark.parametrize("changed", ["", "band = 0.5\n"])
def test_of_two_benches_that_register_at_once_the_first_one_counts(tmp_path, monkeypatch, changed):
    words = f'method = "cskd"\nagainst = "supervised"\n{FIRST}'
    file, results = write(tmp_path, words), tmp_path / "results"
    write_whole = registration.write_file

    def be_late(path, content, **how):
        monkeypatch.setattr(registration, "write_file", write_whole)
        (tmp_path / "other").mkdir()
        register_plan(write(tmp_path / "other", words + changed), results)
        write_whole(path, content, **how)

    monkeypatch.setattr(registration, "write_file", be_late)
    with pytest.raises(UserError, match="with other contrasts") if changed else contextlib.nullcontext():
        register_plan(file, results)
    assert read_plans(results)[0].contrasts[0].band == (0.005 if changed else None)


def test_a_contrast_of_one_seed_is_refused(tmp_path):
    file = write(tmp_path, f'method = "cskd"\nagainst = "supervised"\n{FIRST}')
    file.write_text(file.read_text().replace("seeds = [1, 2, 3]", "seeds = [1]"))
    with pytest.raises(UserError, match="seeds: a contrast is tested by the spread between seeds"):
        register_plan(file, tmp_path / "results")


def test_a_dry_run_registers_nothing(tmp_path, capsys):
    file = write(tmp_path, f'method = "cskd"\nagainst = "supervised"\n{FIRST}')
    before = sorted(tmp_path.rglob("*"))
    places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert main(["bench", str(file), "--dry-run", *places]) == 0 and capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_without_contrasts_registers_nothing(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text(PLAN)
    assert register_plan(file, tmp_path / "results") is None
    assert main(["bench", str(file), "--register", "--results", str(tmp_path / "results")]) == 0
    assert "has no contrasts to register" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_a_dry_run_refuses_what_could_not_be_registered(tmp_path, capsys):
    places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    file = write(tmp_path, f'method = "csdk"\nagainst = "supervised"\n{FIRST}')
    assert main(["bench", str(file), "--dry-run", *places]) == 2
    assert "primary.0: the plan has no method 'csdk'; its methods are supervised" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_registering_runs_nothing(tmp_path, capsys):
    file = write(tmp_path, f'method = "cskd"\nagainst = "supervised"\n{FIRST}')
    places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert main(["bench", str(file), "--register", *places]) == 0
    out = capsys.readouterr().out
    assert "mine.json: registered on 20" in out and "for seeds 1, 2, 3\n" in out
    assert "  primary: cskd − supervised on imagenette128, pretraining, cskd_5ep_teacher64\n" in out
    assert [path.name for path in (tmp_path / "results").rglob("*.json")] == ["mine.json"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("contrast", "sentence"),
    [
        ('method = "cskd"\nagainst = "supervised"\n', r"primary\.0: student: the plan has 2; name the one"),
        (
            'method = "cskd"\nagainst = "supervised"\nstudent = "other.toml"\n',
            r"'other.toml' is none of the plan's students; these are configs/imagenette64/cskd_5ep_teacher64.toml, ",
        ),
        (
            f'method = "cskd"\nagainst = "deit"\n{FIRST}',
            r"has no method 'deit'; its methods are supervised, cskd, cskd \(",
        ),
        (f'method = "cskd"\nagainst = "cskd"\n{FIRST}', r"primary.0: cskd against itself"),
        (f'method = "cskd"\nagainst = "supervised"\ntask = "digits"\n{FIRST}', r"primary.0: task: name one of"),
        (f'method = "cskd"\nagainst = "supervised"\nprotocol = "knn"\n{FIRST}', r"primary.0: task: name one of"),
        (
            f'method = "cskd"\nagainst = "supervised"\nprotocol = "knn"\ntask = "digits"\n{FIRST}',
            r"protocol: the plan does not run 'knn' on digits",
        ),
        (
            f'method = "cskd"\nagainst = "supervised"\nprotocol = "linear"\ntask = "cars"\n{FIRST}',
            r"task: 'cars' is none of the plan's tasks; these are digits",
        ),
        (f'method = "cskd"\nagainst = "supervised"\nband = -1\n{FIRST}', r"primary.0.band"),
        (
            f'method = "cskd"\nagainst = "supervised"\ntask = "digits"\nprotocol = "lin"\n{FIRST}',
            r"primary\.0\.protocol: input should be 'pretrain', 'finetune'",
        ),
        (f'method = "cskd"\nagainst = "supervised"\nother_{FIRST}{FIRST}', r"other_student: name another student"),
        (
            f'method = "cskd"\nagainst = "supervised"\nother_student = "no.toml"\n{FIRST}',
            r"mine.toml: other_student: no file 'no.toml'",
        ),
        (
            f'method = "cskd"\nagainst = "supervised"\n{FIRST}[[exploratory]]\nmethod = "cskd"\n'
            f'against = "supervised"\nband = 1.0\n{FIRST}',
            r"the same contrast stands twice",
        ),
    ],
)
def test_a_contrast_that_the_plans_records_cannot_answer_is_refused_before_anything_runs(tmp_path, contrast, sentence):
    file = write(tmp_path, contrast)
    with pytest.raises(UserError, match=sentence):
        register_plan(file, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("file", sorted((shipped("configs") / "benchmarks").glob("*.toml")), ids=lambda file: file.stem)
def test_every_shipped_plans_contrasts_can_be_resolved(file):
    plan = load_plan(file)
    assert len(resolve_plan(plan, file).contrasts) == len(plan.primary) + len(plan.exploratory)


def test_what_is_registered_here_is_what_the_plans_ask(tmp_path):
    registered = read_plans(ROOT / "results")
    assert {plan.plan for plan in registered} >= {"evidence_cpu", "evidence_cpu_5ep"}
    for plan in registered:
        file = ROOT / "configs" / "benchmarks" / f"{plan.plan}.toml"
        resolved = resolve_plan(load_plan(file), file)
        assert resolved.model_dump(exclude=OWN) == plan.model_dump(exclude=OWN)


def test_the_repositorys_contrasts_all_find_their_records(tmp_path):
    report = build_report(ROOT / "results", tmp_path, formats=("json",))
    contrasts = [*report.comparison.primary, *report.comparison.exploratory]
    assert len(contrasts) >= 11
    assert all(result.seeds == 3 for result in contrasts)
    assert json.loads((tmp_path / "leaderboard.json").read_text())["tables"]


def test_what_the_teachers_cell_takes_is_no_part_of_what_is_asked(tmp_path):
    file, results = write(tmp_path, f'method = "cskd"\nagainst = "supervised"\n{FIRST}'), tmp_path / "results"
    kept = register_plan(file, results).read_bytes()
    file.write_text(f"teacher_gpus = 2\nteacher_threads = 8\n{file.read_text()}")
    assert register_plan(file, results).read_bytes() == kept

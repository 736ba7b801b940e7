"""`cskd-bench advise`: what it says before anything was run, along the way, and at the end."""

import json
import shlex
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import tomlkit
from helpers.tiny import PLAIN_VIEWS, save_model, teacher, tiny_run
from report_plans import ask_plan
from report_synthetic import make_record

from cskd_bench.advice.gate import Gate
from cskd_bench.advice.settings import TeacherStrength, read_settings
from cskd_bench.advice.teacher import exact_teacher, teacher_in_words
from cskd_bench.cli import build_parser, main
from cskd_bench.config import load_config
from cskd_bench.record import CodeRef, write_record
from cskd_bench.report.selection import TableStudent


@pytest.fixture
def run_file(tmp_path, colour_squares, monkeypatch):
    """A CSKD run of three colours with unmixed views and a random teacher, in the current folder."""
    monkeypatch.chdir(tmp_path)
    changes = {"name": "squares", "data.root": str(colour_squares), **PLAIN_VIEWS}
    weights = save_model(tmp_path / "teacher.safetensors", num_classes=3)
    (tmp_path / "run.toml").write_text(tomlkit.dumps(tiny_run(changes | teacher(weights))))
    return tmp_path / "run.toml"


def ask(capsys, *words):
    assert main(["advise", "run.toml", "--results", "mine", *words]) == 0
    return capsys.readouterr().out


def add_record(run_file, label, seed, value, training, **changes):
    config = load_config(run_file, [], "cskd")
    same = {"model": config.model_name, "pretrain_data": config.data_name, "task": config.data_name}
    same |= {"pretrain_recipe": config.recipe_fingerprint(), "recipe": config.recipe_fingerprint()}
    made = make_record(protocol="pretrain", label=label, seed=seed, value=value, **same | changes)
    known = {} if training is None else {"train_top1": training}
    made = made.model_copy(update={"metrics": {"top1": value, **known}})
    write_record(run_file.parent / "mine" / "records", made)


def commands(said):
    return [line.strip() for line in said.splitlines() if line.startswith("  cskd-bench")]


def test_before_anything_was_run_it_prints_commands_that_can_be_typed(run_file, capsys):
    said = ask(capsys)
    assert "not measured on these views" in said and "No run without a teacher is recorded." in said
    assert "Not known yet. Run the commands below first." in said
    found = commands(said)
    assert [words.split()[1] for words in found] == ["bank", "advise", "pretrain", "pretrain"]
    for words in found:
        build_parser().parse_args(shlex.split(words)[1:])


def test_a_bank_and_records_make_the_answer_known(run_file, capsys):
    assert main(["bank", "build", "run.toml", "--method", "cskd", "--epochs", "0:1", "--output", "look"]) == 0
    for seed in (0, 1):
        add_record(run_file, "supervised", seed, 0.05, 0.3)
    capsys.readouterr()
    said = ask(capsys, "--bank", "look")
    assert "Gate: open. Without a teacher: 5.0 % on validation images, 30.0 % on training images, 25.0 points" in said
    assert "here: not run." in said and "Try CSKD, with several seeds." in said
    assert any("--method cskd" in words for words in commands(said))

    add_record(run_file, "cskd", 0, 0.07, 0.2, teacher="test_byobnet@0123456789ab at 64 px")
    told = json.loads(ask(capsys, "--bank", "look", "--json"))
    assert told["gate"]["gap"] == pytest.approx(0.25) and told["gate"]["open"] is True
    assert told["expected"] == "gain" and told["here"]["difference"] == pytest.approx(0.02)
    assert told["strength"]["global_top1"] > 0.05


def test_a_kept_measurement_of_the_teacher_stands_in_for_the_bank(run_file, capsys):
    assert main(["bank", "build", "run.toml", "--method", "cskd", "--epochs", "0:1", "--output", "look"]) == 0
    kept = "mine/teachers/one.json"
    assert main(["bank", "agreement", "look", "run.toml", "--output", kept]) == 0
    counted = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    shutil.rmtree("look")
    other = json.loads((run_file.parent / kept).read_text()) | {"weights": "0" * 12, "global_top1": 1.0}
    (run_file.parent / "mine/teachers/another.json").write_text(json.dumps(other))
    add_record(run_file, "supervised", 0, 0.5, 0.55)
    told = json.loads(ask(capsys, "--json"))
    shares = {key: pytest.approx(counted[key]) for key in ("global_top1", "local_top1")}
    assert told["strength"] == shares | {"same_recipe": True}
    assert told["gate"]["open"] is False and told["expected"] == "no gain"
    assert main(["bank", "agreement", "look", "run.toml", "--output", kept]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("dirty", [False, True])
def test_what_the_printed_commands_leave_is_found(run_file, capsys, monkeypatch, dirty):
    """The teacher needs larger views than the student; another bank lies in the same place; a path has a space."""
    code = CodeRef(commit="0" * 40, dirty=dirty, version="0")
    monkeypatch.setattr("cskd_bench.cells.recording.code_ref", lambda: code)
    more = ["--include-dirty"] if dirty else []
    for seed in (0, 5):
        words = ["advise", "run.toml", "--results", "my results", "--set", f"seed={seed}", *more]
        assert main(words) == 0
        to_type = commands(capsys.readouterr().out)
        assert [main(shlex.split(command)[1:]) for command in to_type] == [0] * len(to_type)
        capsys.readouterr()
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "100.0 % on training images" in told and "Not asked" not in told
    assert not any("supervised" in command for command in commands(told))
    assert main(words[:6]) == 0
    assert ("Not asked: 2 records" in capsys.readouterr().out) == dirty


def test_a_method_with_settings_is_not_taken_for_the_plain_one(run_file, capsys):
    add_record(run_file, "supervised", 0, 0.5, 0.55)
    for label, value in (("cskd", 0.6), ("cskd (decay=local)", 0.7)):
        add_record(run_file, label, 0, value, 0.6, teacher="test_byobnet@0123456789ab at 64 px")
    assert "3. CSKD − no teacher here: +10.00 points, 1 seed: no answer yet (mine)." in ask(capsys)
    said = ask(capsys, "--set", "method.decay=local")
    assert "3. cskd (decay=local) − no teacher here: +20.00 points, 1 seed: no answer yet (mine)." in said
    to_type = commands(said)
    assert ["method.decay=local" in command for command in to_type] == [True, True, False], "the control has no decay"
    for command in to_type[::2]:
        assert main(shlex.split(command)[1:]) == 0


def test_the_control_is_asked_for_at_a_seed_that_was_run_without_a_teacher(run_file, capsys):
    for seed in (3, 4):
        add_record(run_file, "supervised", seed, 0.5, 0.55)
    said = ask(capsys)
    assert "shut, by the gap alone" in said and "kd-standardised: no run with this teacher at a seed" in said
    (control,) = [command for command in commands(said) if "kd-standardised" in command]
    assert "--set seed=3" in control
    assert main(shlex.split(control)[1:]) == 0
    capsys.readouterr()
    said = ask(capsys, "--include-dirty")
    assert "kd-standardised − no teacher: " in said and not any("kd-standardised" in one for one in commands(said))


def look(run_file, capsys):
    """Let the rule say that a gain is possible; return the words that ask again."""
    assert main(["bank", "build", "run.toml", "--method", "cskd", "--epochs", "0:1", "--output", "look"]) == 0
    add_record(run_file, "supervised", 1, 0.01, 0.3)
    capsys.readouterr()
    return ["--bank", "look"]


def test_a_first_look_asks_for_pairs_of_a_few_seeds_and_for_no_more(run_file, capsys):
    """Who adds seeds until a test succeeds finds more than there is."""
    bank = look(run_file, capsys)
    with_teacher = {"teacher": exact_teacher(load_config(run_file, [], "cskd"))}

    def asked():
        found = [command.split() for command in commands(ask(capsys, *bank))]
        return [(one[one.index("--method") + 1], "".join(word for word in one if "seed=" in word)) for one in found]

    assert asked() == [
        ("cskd", "seed=1"),
        *(("supervised", ""), ("cskd", "")),  # seed 0, the configuration's own
        *(("supervised", "seed=2"), ("cskd", "seed=2")),
    ]
    add_record(run_file, "cskd", 1, 0.03, 0.3, **with_teacher)
    assert len(asked()) == 4, "one seed says nothing"
    for seed, value in ((0, 0.031), (2, 0.029)):
        assert asked(), "nor do two"
        add_record(run_file, "supervised", seed, 0.01, 0.3)
        add_record(run_file, "cskd", seed, value, 0.3, **with_teacher)
    said = ask(capsys, *bank)
    assert commands(said) == [] and "Try CSKD" not in said
    assert "Advice: The interval of this difference alone is above zero. For a claim, register a plan" in said


def test_what_the_shipped_gate_lacks_is_completed_by_the_printed_commands(run_file, capsys, monkeypatch):
    """This repository's gate has no control; the user has no run at all, so a control needs one beside it."""
    add_record(run_file, "supervised", 0, 0.5, 0.55)
    add_record(run_file, "cskd", 0, 0.6, 0.6, teacher="test_byobnet@0123456789ab at 64 px")
    shipped = read_settings(run_file.parent / "mine")
    monkeypatch.setattr("cskd_bench.advice.advise.shipped_settings", lambda: shipped)
    words = ["advise", "run.toml", "--results", "empty", "--include-dirty"]
    assert main(words) == 0
    to_type = [command for command in commands(capsys.readouterr().out) if " pretrain " in command]
    assert ["supervised" in command for command in to_type] == [True, False]
    assert [main(shlex.split(command)[1:]) for command in to_type] == [0, 0]
    capsys.readouterr()
    assert main(words) == 0
    assert not any(" pretrain " in command for command in commands(capsys.readouterr().out))


def test_while_a_plan_waits_nothing_but_its_end_is_advised(run_file, capsys):
    bank, mine = look(run_file, capsys), run_file.parent / "mine"
    config = load_config(run_file, [], "cskd")
    empty = TableStudent(config.model_name, config.data_name, config.recipe_fingerprint())
    asked = SimpleNamespace(**asdict(empty) | {"student": empty.model, "teacher": teacher_in_words(config)})
    ask_plan(mine, asked, "asked", [2, 3, 4], "cskd", task="squares")
    said = ask(capsys, *bank)
    assert "Advice: Plan asked is not finished" in said and commands(said) == [] and "Try CSKD" not in said
    for seed, gain in ((2, 0.005), (3, 0.015)):
        add_record(run_file, "supervised", seed, 0.01, 0.3)
        add_record(run_file, "cskd", seed, 0.01 + gain, 0.3, teacher="test_byobnet@0123456789ab at 64 px")
    said = ask(capsys, *bank)
    assert "here: +1.00 points, 2 of 3 seeds: no answer yet (mine; plan asked)." in said
    assert "Advice: Plan asked is not finished: run it to its end, as nothing is claimed before." in said
    assert commands(said) == [] and "Try CSKD" not in said
    ask_plan(mine, asked, "asked", [2, 3], "cskd", task="squares", band=0.1)
    said = ask(capsys, *bank)
    assert ", 2 seeds: equal within the plan's band (mine; plan asked)." in said
    assert "Advice: CSKD and no teacher are equal here, within the plan's band." in said and commands(said) == []


def test_the_own_gate_is_completed_from_the_shipped_setting(run_file, capsys, monkeypatch):
    """Records of release 0.1 lack the score on training images; the shipped settings have it from another run."""
    add_record(run_file, "supervised", 0, 0.5, None)
    add_record(run_file, "cskd", 0, 0.6, 0.6, teacher="test_byobnet@0123456789ab at 64 px")
    (one,) = read_settings(run_file.parent / "mine")
    strength = TeacherStrength(global_top1=0.4, local_top1=0.3)
    again = one.model_copy(update={"gate": Gate(validation=0.5, training=0.55, seeds=1), "strength": strength})
    monkeypatch.setattr("cskd_bench.advice.advise.shipped_settings", lambda: [again])
    add_record(run_file, "kd-standardised", 0, 0.51, None, teacher="test_byobnet at 64 px")
    told = json.loads(ask(capsys, "--json"))
    assert told["gate"]["training"] == 0.55 and told["gate"]["control"] == pytest.approx(0.01)
    assert told["strength"] == strength.model_dump() and told["expected"] == "no gain"


def test_older_records_are_not_asked_for_again(run_file, capsys):
    add_record(run_file, "supervised", 0, 0.05, None)
    said = ask(capsys)
    assert not any("supervised" in words for words in commands(said))
    assert any("kd-standardised" in words for words in commands(said))
    add_record(run_file, "kd-standardised", 0, 0.05, None, teacher="test_byobnet at 64 px")
    build = shlex.split(commands(said)[0])[1:]
    assert main(build) == 0
    said = ask(capsys, "--bank", build[-1])
    assert commands(said) == [] and "Not known. The records without a teacher lack the score" in said


def test_the_setting_itself_is_not_among_those_like_it(run_file, capsys, monkeypatch):
    for seed, value in ((0, 0.6), (1, 0.61)):
        add_record(run_file, "supervised", seed, 0.5, 0.55)
        add_record(run_file, "cskd", seed, value, 0.6, teacher="test_byobnet@0123456789ab at 64 px")
    (one,) = read_settings(run_file.parent / "mine")
    other = one.model_copy(update={"pretrain_recipe": "another"})
    for settings, like in (([one], False), ([one, other], True)):
        monkeypatch.setattr("cskd_bench.advice.advise.shipped_settings", lambda found=settings: found)
        said = ask(capsys)
        assert "expects no gain" in said and ("each taken alone: 1 " in said) == like


def test_results_that_are_no_folder_are_named(run_file, capsys):
    assert main(["advise", "run.toml", "--results", "run.toml"]) == 2
    assert "run.toml: is no folder; name the folder of your records with --results" in capsys.readouterr().err


def test_a_mixing_recipe_asks_for_a_bank_without_mixing(run_file, capsys):
    mixing = ["--set", "recipe.augment.mixup=0.8"]
    said = ask(capsys, *mixing)
    build = next(words for words in commands(said) if words.startswith("cskd-bench bank build"))
    assert "recipe.augment.mixup=0 --set recipe.augment.cutmix=0" in build
    assert main(shlex.split(build)[1:]) == 0
    bank = shlex.split(build)[-1]
    ask(capsys, *mixing, "--bank", bank)
    other = ["--set", "seed=3"]
    assert main(["advise", "run.toml", "--results", "mine", *mixing, *other, "--bank", bank]) == 2
    assert "views.seed: bank has 0, run has 3" in capsys.readouterr().err


def test_a_bank_of_another_teacher_is_refused(run_file, capsys):
    assert main(["bank", "build", "run.toml", "--method", "cskd", "--epochs", "0:1", "--output", "look"]) == 0
    save_model(run_file.parent / "teacher.safetensors", num_classes=3, seed=1)
    asks = (["advise", "run.toml", "--bank", "look"], ["bank", "agreement", "look", "run.toml", "--output", "a.json"])
    for words in asks:
        assert main(words) == 2
        assert "look: does not match this run. teacher.weights: bank has" in capsys.readouterr().err
    assert not (run_file.parent / "a.json").exists()


def test_a_file_that_is_no_measurement_is_named(run_file, capsys):
    (run_file.parent / "mine/teachers").mkdir(parents=True)
    (run_file.parent / "mine/teachers/one.json").write_text("{")
    assert main(["advise", "run.toml", "--results", "mine"]) == 2
    assert "one.json: not written by `bank agreement --output`: Invalid JSON" in capsys.readouterr().err
    (run_file.parent / "mine/teachers/one.json").write_text('{"views": 0}')
    assert main(["advise", "run.toml", "--results", "mine"]) == 2
    assert "one.json: not written by `bank agreement --output`" in capsys.readouterr().err


def test_every_line_is_whole_in_a_narrow_terminal(run_file, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert "(95 % intervals, corrected for a plan's family, else of one difference alone):" in ask(capsys)

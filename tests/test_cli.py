"""The command line: help without torch, one sentence and exit code 2 for bad input, nothing destroyed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.processes import run

import cskd_bench
from cskd_bench.bench.plan import load_plan
from cskd_bench.cli import build_parser, main
from cskd_bench.config import load_config
from cskd_bench.schema import shipped, shipped_file
from cskd_bench.task import task_files
from cskd_bench.task_groups import expand_tasks
from cskd_bench.verbs.common import EXIT_INTERRUPTED, EXIT_STOPPED
from cskd_bench.verbs.help_texts import EXAMPLES, EXIT_CODES, VARIABLES, VARIABLES_OF
from cskd_bench.verbs.parser import EXIT_BAD_INPUT

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
from cskd_bench.cli import main
sys.exit(main({arguments!r}))
"""


def run_without(blocked, *arguments):
    program = BLOCKED.format(blocked=set(blocked), arguments=list(arguments))
    return run([sys.executable, "-c", program])


def test_help_imports_nothing_heavy():
    """Help answers fast because it imports nothing: not even the settings library."""
    done = run_without(["torch", "timm", "numpy", "pydantic", "sklearn", "rich"], "--help")
    assert done.returncode == 0, done.stderr
    for verb in ("quickstart", "pretrain", "transfer", "bench", "report", "export", "tasks", "methods"):
        assert verb in done.stdout


def test_every_verb_has_help(capsys):
    (action,) = build_parser()._subparsers._group_actions
    assert len(action.choices) > 6
    for verb in action.choices:
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out


def described(parser, name=""):
    """Return every parser below one, by the words that lead to it."""
    found = {name: parser}
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for word, below in action.choices.items():
            found |= described(below, f"{name} {word}".strip())
    return found


def test_every_help_tells_exit_codes_variables_and_examples():
    parsers = described(build_parser())
    assert {"", "transfer", "bank build", "records rerun"} <= parsers.keys()
    verbs = {name.partition(" ")[0] for name in parsers}
    assert verbs == EXAMPLES.keys() == VARIABLES_OF.keys() | {""}
    for name, parser in parsers.items():
        said, verb = parser.format_help(), name.partition(" ")[0]
        assert EXIT_CODES in said and "\nexamples:\n  " in said, name
        assert all(f"  {variable} " in said for variable in VARIABLES_OF.get(verb, VARIABLES)), name
        assert EXAMPLES[verb] and all(f"\n  {example}\n" in said for example in EXAMPLES[verb]), name
    codes = {int(line.split()[0]) for line in EXIT_CODES.splitlines()[1:]}
    assert codes == {0, 1, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_STOPPED}


def test_examples_are_commands_that_can_be_read():
    """Their words parse, and what they name of tasks and configurations is shipped."""
    for verb, examples in EXAMPLES.items():
        for example in examples:
            words = shlex.split(re.split(r" [|>] ", example)[0])
            start = words.index("cskd-bench") if "cskd-bench" in words else words.index("cskd_bench.cli")
            options = build_parser().parse_args(words[start + 1 :])
            assert verb in ("", words[start + 1])
            tasks = getattr(options, "task", None) or []
            assert expand_tasks([tasks] if isinstance(tasks, str) else tasks) or not tasks
            config = getattr(options, "config", None)
            assert config is None or shipped_file("configs", config).is_file()
    assert len(EXAMPLES) > 6


def test_help_names_every_variable_that_the_code_reads():
    """A launcher sets some of them for its processes; these are nobody's to set by hand."""
    by_a_launcher = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "GROUP_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"}
    pattern = re.compile(r"""environ(?:\.get\(|\.setdefault\(|\[)\s*"(\w+)\"|"(\w+)" (?:not )?in os\.environ""")
    package = Path(cskd_bench.__file__).parent
    read = {one or other for file in package.rglob("*.py") for one, other in pattern.findall(file.read_text())}
    assert {"CSKD_BENCH_DATA", "RAY_ADDRESS", "CXX"} <= read
    assert read - by_a_launcher - {"_ARGCOMPLETE"} <= VARIABLES.keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trnsfer", "cskd-bench: no verb 'trnsfer' (did you mean transfer?); see: cskd-bench --help"),
        ("zzz", "cskd-bench: no verb 'zzz'; see: cskd-bench --help"),
        ("", "cskd-bench: the following arguments are required: VERB; see: cskd-bench --help"),
        ("report --reslts x", "cskd-bench report: unknown '--reslts' (did you mean --results?); see: "),
        ("bank bild", "cskd-bench bank: no action 'bild' (did you mean build?); see: cskd-bench bank --help"),
        ("bank info b --zzz", "cskd-bench bank info: unknown '--zzz'; see: cskd-bench bank info --help"),
        (
            "export --checkpoint x --to y",
            "argument --to: invalid choice: 'y' (choose from 'timm', 'hub', 'onnx'); see: ",
        ),
    ],
)
def test_what_cannot_be_read_is_a_sentence_and_where_help_is(capsys, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert sentence in said.err and said.err.count("\n") == 1


def test_configs_are_listed_with_what_they_are(capsys):
    """Every file that is listed is a run or a plan that loads, and the first line of its comment says which."""
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 28
    for line in lines:
        name, _, about = line.partition("  ")
        file = shipped("configs") / name
        method = "" if "method" in tomllib.loads(file.read_text()) else "cskd"
        assert load_plan(file) if name.startswith("benchmarks/") else load_config(file, method=method)
        assert len(about.strip()) > 20 and about.rstrip()[-1] == ".", line


def test_pretrain_takes_a_method_and_asks_for_one_where_there_is_none(capsys):
    assert main(["pretrain", "configs/deit_tiny.toml", "--method", "supervised", "--dry-run"]) == 0
    assert "deit_tiny_supervised" in capsys.readouterr().out
    said = refused(capsys, "pretrain", "deit_tiny", "--dry-run")
    assert "deit_tiny.toml: names no method; add --method with one of supervised, kd, deit, cskd" in said
    said = refused(capsys, "pretrain", "deit_tiny", "--method", "vkx")
    assert "--method: there is no method 'vkx' (did you mean vkd?); there are supervised, kd, deit, cskd" in said
    said = refused(capsys, "pretrain", "deit_tiny", "--method", "kd", "--set", "method.kind=deit")
    assert "--method kd: --set names another one, deit" in said
    for given in ([], ["--method", "kd"]):
        said = refused(capsys, "pretrain", "deit_tiny", *given, "--set", "method=deit")
        assert "--set method=deit: a method is a table of settings; name it with --method deit" in said


def test_tasks_and_report_run_without_torch(tmp_path):
    done = run_without(["torch", "timm", "torchvision"], "tasks", "list")
    assert done.returncode == 0 and "flowers102_deit" in done.stdout, done.stderr
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "broken.json").write_text("not json")
    done = run_without(["torch", "timm", "torchvision"], "report", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "broken.json" in done.stdout + (tmp_path / "LEADERBOARD.md").read_text()


def test_records_verify_counts_problems_and_fails_on_them(capsys, tmp_path):
    (tmp_path / "records").mkdir()
    assert main(["records", "verify", "--results", str(tmp_path)]) == 0
    (tmp_path / "records" / "broken.json").write_text("not json")
    capsys.readouterr()
    assert main(["records", "verify", "--results", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "broken.json: " in said and "1 problem in 1 records" in said


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("cskd-bench: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def config(tmp_path, data):
    path = tmp_path / "run.toml"
    path.write_text(
        f'[method]\nkind = "supervised"\n[data]\nroot = "{data}"\nnum_classes = 3\n[recipe]\nprecision = "fp32"\n'
    )
    return str(path)


def test_bad_input_is_one_sentence_and_exit_code_2(capsys, tmp_path, colour_squares):
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert "nowhere.toml" in refused(capsys, "pretrain", "nowhere.toml", *places)
    assert "no such folder" in refused(capsys, "pretrain", config(tmp_path, tmp_path / "nowhere"), *places)
    (tmp_path / "hollow" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "hollow" / "val" / "cat").mkdir(parents=True)
    assert "without images" in refused(capsys, "pretrain", config(tmp_path, tmp_path / "hollow"), *places)
    too_large = "larger than the 48 training images"
    assert too_large in refused(capsys, "pretrain", config(tmp_path, colour_squares), *places)
    task = tmp_path / "mine.toml"
    task.write_text('protocols = ["levitate"]\n[data]\n')
    words = refused(capsys, "transfer", "--task", str(task), "--checkpoint", str(tmp_path), *places)
    assert "mine.toml" in words and "levitate" in words
    assert "no task 'cifar1000' (did you mean cifar100?)" in refused(
        capsys, "transfer", "--task", "cifar1000", "--checkpoint", "x", *places
    )
    missing = refused(capsys, "transfer", "--task", "digits", "--checkpoint", str(tmp_path / "none"), *places)
    assert "no such checkpoint" in missing
    not_a_run = refused(capsys, "transfer", "--task", "digits", "--checkpoint", str(colour_squares), *places)
    assert "not a finished run" in not_a_run
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("seed", ["-1", "9" * 23])
def test_an_impossible_seed_is_refused(capsys, seed, tmp_path, colour_squares):
    with pytest.raises(SystemExit, match="2"):
        main(["transfer", "--task", "digits", "--checkpoint", "x", "--seed", seed])
    assert f"'{seed}' is not a whole number from 0 to 2^63 - 1" in capsys.readouterr().err
    assert "seed: " in refused(capsys, "pretrain", config(tmp_path, colour_squares), "--set", f"seed={seed}")


def test_validation_classes_that_are_not_the_training_classes_are_refused(capsys, tmp_path, colour_squares):
    """With a folder missing, every later class would be scored under its neighbour's number."""
    shutil.copytree(colour_squares, tmp_path / "squares")
    shutil.rmtree(tmp_path / "squares" / "val" / "blue")
    words = refused(capsys, "pretrain", config(tmp_path, tmp_path / "squares"), "--set", "recipe.batch_size=16")
    assert "data.val: class 0 is 'green', in data.train 'blue'" in words


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("recipe.augment.auto_augment=randaugment", "timm cannot read 'randaugment'"),
        ("student.embed_dim=100", "timm cannot build 'deit_tiny_patch16_224' with these sizes"),
        ("recipe.optim.betas=[0.9, 1.0]", "recipe.optim.betas.1: input should be less than 1"),
        ("run.accumulate=3", "run.accumulate 3 does not"),
    ],
)
def test_impossible_settings_are_refused(capsys, tmp_path, colour_squares, setting, sentence):
    words = ["--set", "recipe.batch_size=16", "--set", "run.workers=0", "--set", setting]
    if "accumulate" in setting:
        words.append("--dry-run")
    assert sentence in refused(capsys, "pretrain", config(tmp_path, colour_squares), *words, "--runs", str(tmp_path))


def test_an_error_in_a_loaders_worker_is_the_workers_sentence_alone(capsys, tmp_path, colour_squares):
    shutil.copytree(colour_squares, tmp_path / "squares")
    for file in (tmp_path / "squares" / "train").rglob("*.png"):
        file.write_bytes(b"no image")
    words = ["--set", "run.workers=1", "--set", "recipe.batch_size=16", "--set", "student.depth=1"]
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert "not a readable image" in refused(
        capsys, "pretrain", config(tmp_path, tmp_path / "squares"), *words, *places
    )


def test_a_shipped_file_is_found_from_anywhere_as_it_is_named_in_the_docs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "configs/benchmarks/quickstart.toml", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ray-address", "auto"], "--ray-address is for --executor ray, not for local"),
        (["--gpus", "1.5"], "two or more GPUs are whole ones"),
        (["--gpus", "5e-324"], "is neither 0 nor from 0.01 to 64"),
        (["--executor", "ray", "--slurm", "timeout_min=3"], "--slurm is for --executor slurm, not for ray"),
        (["--executor", "slurm", "--gpus", "0.5"], "Slurm gives whole GPUs"),
    ],
)
def test_options_that_an_executor_would_ignore_are_refused(capsys, words, sentence):
    assert sentence in refused(capsys, "bench", "benchmarks/quickstart.toml", "--dry-run", *words)


def test_a_device_that_is_not_there_is_refused(capsys, tmp_path, colour_squares, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda:99")
    words = refused(capsys, "pretrain", config(tmp_path, colour_squares), "--set", "recipe.batch_size=16")
    assert "CSKD_BENCH_DEVICE=cuda:99" in words


def test_options_without_what_they_change_and_files_in_the_way_are_refused(capsys, tmp_path):
    assert "--config" in refused(capsys, "speed", "--part", "bank", "--set", "seed=1")
    assert "neither kshot nor lowlabel" in refused(capsys, "tasks", "indices", "digits")
    (tmp_path / "file").touch()
    words = refused(capsys, "export", "--checkpoint", str(tmp_path / "file"), "--to", "onnx", "--output", "x")
    assert "needs --model" in words
    assert "is a file" in refused(capsys, "quickstart", "--output", str(tmp_path / "file"))


def test_weights_of_another_model_are_refused(capsys, tmp_path):
    import timm
    from safetensors.torch import save_file

    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("deit_tiny_patch16_224", depth=1).state_dict(), weights)
    words = refused(
        capsys, "transfer", "--task", "digits", "--checkpoint", str(weights), "--model", "deit_small_patch16_224"
    )
    assert "weights of another model" in words and "w.safetensors" in words
    save_file(timm.create_model("cait_xxs24_224", depth=1).state_dict(), weights)
    words = refused(capsys, "transfer", "--task", "digits", "--checkpoint", str(weights), "--model", "cait_xxs24_224")
    assert "weights of another model" in words


def test_tasks_show_and_validate(capsys, tmp_path):
    assert main(["tasks", "show", "digits"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "digits"
    assert main(["tasks", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {task["name"] for task in listed} == task_files().keys()
    (digits,) = (task for task in listed if task["name"] == "digits")
    assert digits["classes"] == 10 and "knn" in digits["protocols"] and digits["metric"] == "top1"
    assert "--json is for list" in refused(capsys, "tasks", "validate", "--json")
    assert main(["tasks", "validate"]) == 0
    said = capsys.readouterr().out
    assert "digits: valid" in said and re.search(r"    knn +fingerprint [0-9a-f]{16}\n", said)
    (tmp_path / "odd.toml").write_text("protocols = []\n[data]\n")
    assert "odd.toml" in refused(capsys, "tasks", "validate", "--tasks-dir", str(tmp_path))


def test_the_shipped_plan_expands(capsys):
    assert main(["bench", "benchmarks/quickstart.toml", "--dry-run"]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if " to do " in line]
    assert len(planned) == 1 + 4 * 5 + 4 * 5 * 3
    assert planned[0].split()[0] == "quickstart_teacher"


def test_a_reader_that_has_gone_is_no_traceback():
    """`cskd-bench tasks list --json | head -1`, where head has ended before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cskd_bench.cli", "tasks", "list", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")

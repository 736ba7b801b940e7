"""Fine-tuning leaves a run folder: it reopens bit for bit, is scored as its record says, and is nobody's double."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.tiny import PLAIN_VIEWS, save_model, teacher, write_run
from PIL import Image

from cskd_bench.api.runs import run_task
from cskd_bench.bench.plan import TransferCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Places, run_cell
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.explain.run import explain
from cskd_bench.export import export_timm
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.run_summary import read_run, read_summary
from cskd_bench.record import read_record, write_record
from cskd_bench.report.recompute import contradictions
from cskd_bench.report.selection import select, setting_of, student_of
from cskd_bench.report.verify import verify_records
from cskd_bench.stopping import Stop
from cskd_bench.task import load_task
from cskd_bench.transfer import kept
from cskd_bench.transfer.run import transfer

RANKS = Ranks(0, 1, torch.device("cpu"))
SIZED = "vit_tiny_patch16_224"
TASK = """
protocols = ["finetune", "knn", "lowlabel", "evaluate"]
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[finetune]
epochs = 2
batch_size = 16
[finetune.optim]
lr = 3e-3
[lowlabel]
fractions = [0.5]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a pretrained CSKD student, its record, and a task."""
    folder = tmp_path_factory.mktemp("kept")
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    changes = {"data.root": colour_squares, "recipe.epochs": 1, "recipe.optim.warmup_epochs": 0.0, **PLAIN_VIEWS}
    write_run(folder / "tiny.toml", changes | teacher(weights) | {"student.name": "deit_tiny_patch16_224"})
    pretrain(load_config(folder / "tiny.toml"), folder / "runs", folder / "results", RANKS)
    (folder / "squares.toml").write_text(TASK.format(data=colour_squares))
    return folder


def do(place, protocol, checkpoint, *settings, seed=0, results="results", keep=True, **options):
    task = load_task(str(place / "squares.toml"), overrides=settings)
    return transfer(
        task, protocol, checkpoint, seed,
        results=place / results, work=place / "runs" / "transfer", ranks=RANKS, workers=0, keep_weights=keep, **options,
    )  # fmt: skip


def confidences(place, record):
    """Return how sure the student was of each image, to the bit that the side file keeps."""
    with np.load(place / "results" / "records" / record.per_example.name) as side:
        return side["confidence"].tolist()


@pytest.fixture(scope="module")
def tuned(place):
    """The record of a fine-tuning, the folder that it left, and the student as it was in memory."""
    students = []
    whole = kept.plain_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "plain_state", lambda student: students.append(student) or whole(student))
        record = do(place, "finetune", place / "runs" / "tiny")
    return record, place / "runs" / "transfer" / record.id, students[0]


def test_the_folder_holds_weights_and_summary_alone(tuned):
    record, folder, _ = tuned
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "run.json"]
    summary = read_summary(folder)
    assert (summary.tuning.record, summary.tuning.task, summary.checkpoint.run) == (record.id, "squares", "tiny")
    assert (summary.classes, summary.num_classes) == (("blue", "green", "red"), 3)
    assert summary.config.name == "tiny" and summary.blueprint.heads == "class+dist+patch"


def test_a_reopened_student_gives_the_same_logits_bit_for_bit(tuned):
    _, folder, student = tuned
    views = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(folder).student.predict(views), student.predict(views))


def test_evaluation_gives_the_fine_tunings_own_score(place, tuned):
    record, folder, _ = tuned
    again = do(place, "evaluate", folder)
    assert again.value == record.value and confidences(place, again) == confidences(place, record)
    assert again.checkpoint.sha256 == read_summary(folder).sha256["model"] != record.checkpoint.sha256


def test_a_tuned_students_records_stand_apart_and_recompute(place, tuned):
    """Same method and model as the pretrained student's, in another table; nothing is taken for a copy."""
    record, folder, _ = tuned
    before, after = do(place, "knn", place / "runs" / "tiny"), do(place, "knn", folder)
    again = do(place, "evaluate", folder)
    assert after.checkpoint.run == "tiny-tuned-squares-s0" and after.checkpoint.pretrain_data.endswith("then squares")
    assert after.checkpoint.pretrain_recipe == record.recipe != before.checkpoint.pretrain_recipe
    assert (student_of(before), setting_of(before)) != (student_of(after), setting_of(after))
    assert student_of(before) != student_of(after) and after.config["finetuned"]["record"] == record.id
    assert [contradictions(r) for r in (before, after, again, record)] == [[], [], [], []]
    chosen = select(place / "results" / "records", include_dirty=True)
    assert {after.id, before.id} <= {r.id for cell in chosen.cells.values() for r in cell}
    reasons = verify_records(place / "results" / "records")
    assert [problem for problem in map(str, reasons) if "predictions of" in problem] == []


def test_a_tuned_student_is_tuned_again_explained_and_exported(place, tuned, tmp_path, monkeypatch):
    _, folder, student = tuned
    twice = do(place, "finetune", folder, seed=1)
    chain = load_checkpoint(place / "runs" / "transfer" / twice.id)
    assert chain.checkpoint.run == "tiny-tuned-squares-s0-tuned-squares-s1"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    monkeypatch.setattr("cskd_bench.explain.run.build_teacher", None)  # it may know none of the task's classes
    assert len(explain(folder, tmp_path / "red.png", tmp_path / "drawn")) == 3
    export_timm(folder, tmp_path / "out")
    opened, views = load_checkpoint(tmp_path / "out"), torch.rand(2, 3, 32, 32)
    assert opened.classes == ("blue", "green", "red")
    with torch.no_grad():
        torch.testing.assert_close(opened.student.predict(views), student.predict(views))


def test_the_card_of_an_export_holds_the_score_of_the_fine_tuning_and_both_data_sets(place, tuned, tmp_path):
    record, folder, _ = tuned
    export_timm(folder, tmp_path / "out", results=place / "results")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| top-1 | {100 * record.value:.2f} % of {record.examples} images (squares, finetune) |" in card
    assert f"| then | finetune on squares, recipe `{record.recipe}` |" in card and f"| record | `{record.id}` |" in card
    assert f'datasets: ["{record.checkpoint.pretrain_data}", "squares"]' in card
    other = record.checkpoint.model_copy(update={"sha256": "0" * 64})
    write_record(tmp_path / "records", record.model_copy(update={"checkpoint": other}))
    export_timm(folder, tmp_path / "of other weights", results=tmp_path)
    assert "| top-1 | not measured |" in (tmp_path / "of other weights" / "README.md").read_text()


def test_a_dropped_distillation_head_stays_dropped(place):
    record = do(place, "finetune", place / "runs" / "tiny", "finetune.distillation_token=drop")
    folder = place / "runs" / "transfer" / record.id
    assert load_checkpoint(folder).student.heads == "class"
    assert confidences(place, do(place, "evaluate", folder)) == confidences(place, record)


def test_averaged_weights_are_those_that_stay(place):
    record = do(place, "finetune", place / "runs" / "tiny", "finetune.ema_decay=0.5")
    folder = place / "runs" / "transfer" / record.id
    assert confidences(place, do(place, "evaluate", folder)) == confidences(place, record)
    with pytest.raises(UserError, match="this run has no ema weights"):
        load_checkpoint(folder, weights="ema")


@pytest.mark.parametrize("name", [SIZED, "test_byobnet"])
def test_a_weights_file_that_was_tuned_reopens(place, name, tmp_path):
    """With a mean of its own, which the folder keeps."""
    options = {"img_size": 32} if name == SIZED else {}
    file = save_model(tmp_path / "own.safetensors", name, num_classes=7, **options)
    from cskd_bench.models.preprocessing import Preprocessing

    mean = Preprocessing(mean=(0.3, 0.4, 0.5))
    record = do(place, "finetune", file, "image_size=32", model=name, preprocessing=mean)
    folder = place / "runs" / "transfer" / record.id
    opened = load_checkpoint(folder)
    assert opened.student.mean.flatten().tolist() == pytest.approx([0.3, 0.4, 0.5])
    again = do(place, "evaluate", folder)
    assert again.value == record.value and again.method.kind == "external"
    assert again.checkpoint.pretrain_data == "external then squares"


def test_discarded_weights_leave_nothing_and_another_runs_weights_stay(place, tuned):
    _, folder, _ = tuned
    dropped = do(place, "finetune", place / "runs" / "tiny", seed=5, keep=False)
    assert not (place / "runs" / "transfer" / dropped.id).exists()
    do(place, "finetune", place / "runs" / "tiny", results="elsewhere", keep=False)
    assert load_checkpoint(folder).tuning is not None
    low = do(place, "lowlabel", place / "runs" / "tiny")
    assert not (place / "runs" / "transfer" / low.id).exists()


def test_a_bench_keeps_weights_where_asked_and_the_api_does_unless_told(place, monkeypatch):
    asked = []
    monkeypatch.setattr("cskd_bench.transfer.run.transfer", lambda *_, **options: asked.append(options["keep_weights"]))
    cell = TransferCell(load_task(str(place / "squares.toml")), "finetune", "tiny", 0, "squares", (), "")
    for places in (Places(place, place), Places(place, place, keep_weights=True)):
        run_cell(CellJob(cell, places, Resources(), str(place), {}), None, Stop())
    assert asked == [False, True]
    folders = {"results": place / "results", "work": place / "runs" / "transfer", "workers": 0}
    record = run_task(place / "squares.toml", place / "runs" / "tiny", protocol="finetune", seed=11, **folders)
    assert load_checkpoint(place / "runs" / "transfer" / record.id).tuning.seed == 11


def test_the_verb_says_where_weights_are_or_that_they_are_not_kept(place, capsys):
    words = ["transfer", "--task", str(place / "squares.toml"), "--protocol", "finetune", "--seed", "7"]
    words += ["--checkpoint", str(place / "runs" / "tiny"), "--workers", "0"]
    words += ["--runs", str(place / "runs"), "--results", str(place / "results")]
    assert main(words) == 0
    said = capsys.readouterr().out
    folder = said.partition("weights: ")[2].partition(" (")[0]
    assert load_checkpoint(type(place)(folder)).tuning.seed == 7
    shutil.rmtree(folder)
    assert main(words) == 0
    assert "its weights were not kept in" in capsys.readouterr().out
    assert main([*words[:6], "8", *words[7:], "--discard-weights"]) == 0
    assert "weights" not in capsys.readouterr().out


def test_a_tuned_folder_is_no_pretraining_and_a_damaged_one_is_refused(tuned, tmp_path):
    _, folder, _ = tuned
    with pytest.raises(UserError, match="holds a fine-tuned student"):
        read_run(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    summary = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(summary | {"mean": [0.5]}))
    with pytest.raises(UserError, match="damaged, or of another release: mean"):
        load_checkpoint(copy)
    (copy / "run.json").write_text(json.dumps(summary))
    (copy / "model.safetensors").write_bytes(b"1")
    with pytest.raises(UserError, match="does not match the checksum"):
        load_checkpoint(copy)
    (copy / "run.json").write_text(json.dumps({"tuning": {}}))
    with pytest.raises(UserError, match="damaged, or of another release"):
        load_checkpoint(copy)


def test_the_weights_are_there_before_the_record(place, monkeypatch):
    """Whoever sees a record finds its weights; stopped in between, the cell is done again."""

    def fail(*_):
        raise UserError("no space left")

    monkeypatch.setattr("cskd_bench.transfer.run.keep", fail)
    with pytest.raises(UserError, match="no space left"):
        do(place, "finetune", place / "runs" / "tiny", seed=9)
    (folder,) = [path for path in (place / "runs" / "transfer").glob("*s9*") if path.is_dir()]
    assert load_checkpoint(folder).tuning.seed == 9
    monkeypatch.undo()
    record = do(place, "finetune", place / "runs" / "tiny", seed=9)
    assert read_record(place / "results" / "records" / f"{record.id}.json").seed == 9
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "run.json"]

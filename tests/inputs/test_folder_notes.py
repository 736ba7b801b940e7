"""What is left out of a folder, and images of train in val, are said in pretraining too, and kept in its record."""

import json
import shutil

from helpers.inputs import Input, transfer
from helpers.tiny import save_model, write_run
from inputs.images import COLOURS, folder, rgb, stored

from cskd_bench.cli import main


def test_pretraining_notes_what_it_leaves_out(colour_squares, tmp_path, capsys):
    data = shutil.copytree(colour_squares, tmp_path / "data")
    (data / "train" / "red" / "notes.txt").write_text("none")
    inner = data / "val" / "red" / "more"
    inner.mkdir()
    image = next((data / "val" / "red").glob("*.png"))
    image.rename(inner / image.name)
    changes = {"method.kind": "supervised", "recipe.epochs": 1, "recipe.optim.warmup_epochs": 0.0}
    config = write_run(tmp_path / "run.toml", changes)
    words = ["pretrain", str(config), "--data-dir", str(data), "--runs", str(tmp_path / "runs")]
    assert main([*words, "--results", str(tmp_path / "results")]) == 0
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    note = "left out of train: 1 file of another ending (red/notes.txt); "
    note += f"used in val: 1 image in a sub-folder of its class (red/more/{image.name})"
    assert note in json.loads(record.read_text())["note"]
    assert capsys.readouterr().err.count(note) == 1


def test_pretraining_notes_images_that_train_and_val_share(colour_squares, tmp_path, capsys):
    data = shutil.copytree(colour_squares, tmp_path / "data")
    for number, file in enumerate(sorted((data / "train" / "red").glob("*.png"))[:2]):
        shutil.copy(file, data / "val" / "red" / f"other{number}.png")
    config = write_run(
        tmp_path / "run.toml", {"method.kind": "supervised", "recipe.epochs": 1, "recipe.optim.warmup_epochs": 0.0}
    )
    words = ["pretrain", str(config), "--data-dir", str(data), "--runs", str(tmp_path / "runs")]
    assert main([*words, "--dry-run"]) == 0
    count = len(list((data / "val").rglob("*.png")))
    note = f"2 of {count} images of data.val are also in data.train (red/other0.png = red/"
    assert note in capsys.readouterr().err
    assert main([*words, "--results", str(tmp_path / "results")]) == 0
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    assert note in json.loads(record.read_text())["note"]


def test_a_dry_run_of_pretraining_looks_at_both_splits(colour_squares, tmp_path, capsys):
    data = shutil.copytree(colour_squares, tmp_path / "data")
    config = write_run(tmp_path / "run.toml", {"method.kind": "supervised"})
    words = ["pretrain", str(config), "--data-dir", str(data), "--dry-run"]
    (data / "val" / "red").rename(data / "val" / "rose")
    assert main(words) == 2
    assert "both need the same classes" in capsys.readouterr().err
    shutil.rmtree(data / "val")
    assert main(words) == 2
    assert "val: no such folder" in capsys.readouterr().err


def test_fine_tuning_notes_what_is_left_out_of_val(tmp_path):
    root = tmp_path / "data"
    folder(root)
    for name, level in COLOURS.items():
        (root / "val" / name).mkdir(parents=True)
        (root / "val" / name / "0.png").write_bytes(stored(rgb(level + 3)))
    (root / "val" / "a" / "0.heic").write_bytes(b"none")
    tuning = ["epochs=1", "batch_size=3", "optim.warmup_epochs=0"]
    settings = ('protocols=["finetune"]', 'data.val="val"', *(f"finetune.{setting}" for setting in tuning))
    given = Input("a file in val", folder, settings=settings, protocol="finetune")
    assert transfer(given, root, save_model(tmp_path / "w.safetensors", "test_vit")) == 0
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    assert "left out of val: 1 file of another ending (a/0.heic)" in json.loads(record.read_text())["note"]

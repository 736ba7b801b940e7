"""What of a folder is left out is said in pretraining too, once, and kept in its record."""

import json
import shutil

from helpers.tiny import write_run

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

"""Folders of every name: data, runs, results and checkpoints lie in one, from pretraining to the report."""

import json
import os

import pytest
from helpers.inputs import Input, doctor, transfer
from helpers.tiny import PLAIN_VIEWS, save_model, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import labels
from inputs.places import LATIN, folders

from cskd_bench.cli import main
from cskd_bench.config import DataConfig
from cskd_bench.data.open import open_source
from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes, on_one_line, readable
from cskd_bench.schema import apply_overrides, override

SMALL = PLAIN_VIEWS | {"method.kind": "supervised", "recipe.epochs": 1, "recipe.batch_size": 4, "data.val": "test"}
NAMED = Input("any name", folders, done="used")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "w.safetensors", "test_vit")


@pytest.mark.gate
@pytest.mark.parametrize(
    "name", [LATIN, "a\"b'\\t\nc [bold]{x}", "-%s #$HOME, émoji😀+@~ *?"], ids=["bytes", "marks", "signs"]
)
def test_everything_lies_in_a_folder_of_that_name(tmp_path, weights, capsys, name):
    folder = tmp_path / name
    folders(folder / "data")
    checkpoint = folder / f"{name}.safetensors"
    checkpoint.write_bytes(weights.read_bytes())
    assert transfer(NAMED, folder / "data", checkpoint) == 0
    assert doctor(NAMED, folder / "data") == 0
    places = ["--runs", str(folder / "runs"), "--results", str(folder / "results")]
    run = write_run(folder / "tiny.toml", SMALL)
    folders(folder / "pretrain" / name)
    assert main(["pretrain", str(run), "--data-dir", str(folder / "pretrain" / name), *places]) == 0
    assert transfer(NAMED, folder / "data", folder / "runs" / "tiny", "--model", "") == 0
    records = [json.loads(path.read_bytes()) for path in (folder / "results" / "records").glob("*.json")]
    pretrained, *others = sorted(records, key=lambda record: record["protocol"] != "pretrain")
    assert pretrained["config"]["data"]["root"] == pretrained["task"]["name"] == readable(name)
    assert len(others) == 2 and readable(name) in " ".join(record["checkpoint"]["run"] for record in others)
    assert main(["report", "--results", str(folder / "results"), "--include-dirty"]) == 0
    assert main(["records", "verify", "--results", str(folder / "results")]) == 0
    assert "0 problems in 3 records" in capsys.readouterr().out


def test_an_error_in_a_folder_with_a_line_break_is_one_line(tmp_path, capsys):
    assert main(["report", "--results", str(tmp_path / f"a\nb{LATIN}")]) == 2
    said = capsys.readouterr().err
    assert "a\\nbcaf\\xe9/records: no such folder" in said and len(said.splitlines()) == 1


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_any_name_on_disk_is_hashed_as_it_is_and_can_be_shown(content):
    name = os.fsdecode(content)
    assert name_bytes(name) == content
    assert on_one_line(readable(name)).encode() and readable(readable(name)) == readable(name)
    assert str(UserError(name)).encode() is not None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_a_name_of_text_stays_as_it_is_in_overrides_too(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        assert readable(text) != text
        return
    assert readable(text) == text and name_bytes(text) == text.encode()
    assert apply_overrides({}, [override("data.root", text)]) == {"data": {"root": text}}


def test_results_that_cannot_be_written_are_told_before_anything_is_trained(tmp_path, weights, capsys):
    folders(tmp_path / "data")
    (tmp_path / "results").write_text("a file")
    tuning = ('protocols=["finetune"]', "finetune.epochs=1", "finetune.batch_size=4", "finetune.optim.warmup_epochs=0")
    assert transfer(Input("no results", folders, settings=tuning, protocol="finetune"), tmp_path / "data", weights) == 2
    said = capsys.readouterr().err
    assert "results is no folder" in said and "epoch" not in said
    run = write_run(tmp_path / "tiny.toml", SMALL)
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main(["pretrain", str(run), "--data-dir", str(tmp_path / "data"), *places]) == 2
    said = capsys.readouterr().err
    assert "results is no folder" in said and "epoch" not in said


@pytest.mark.parametrize("target", ["train", "nowhere"])
def test_the_doctor_names_a_link_that_leads_nowhere(tmp_path, capsys, target):
    folders(tmp_path / "data")
    (tmp_path / "data" / "train").rename(tmp_path / "train")
    (tmp_path / "data" / "train").symlink_to(target)
    assert main(["doctor", "--data-dir", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]) == 1
    assert "train is a link that leads nowhere" in capsys.readouterr().out


def test_a_listed_image_that_is_no_file_is_refused(tmp_path):
    labels.coco_list(tmp_path / "data", lambda lists: None)
    (tmp_path / "data" / "test" / "0.png").unlink()
    os.mkfifo(tmp_path / "data" / "test" / "0.png")
    data = DataConfig(dataset="coco_list", root=str(tmp_path / "data"), num_classes=3)
    with pytest.raises(UserError, match=r"test/0\.png: is listed as an image, but is no file"):
        open_source(data, "test")

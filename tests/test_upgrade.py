"""What release 0.1.0 left behind is still read, found again and compared."""

import json
import shutil
from pathlib import Path

import pytest

from cskd_bench.bench.rerun import pretraining_again
from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.record import read_record, read_records
from cskd_bench.report.selection import setting_of, student_of
from cskd_bench.schema import fingerprint

LEFT = Path(__file__).parent / "fixtures" / "release_0_1_0"


@pytest.fixture
def unstated(tmp_path, monkeypatch):
    """A run whose views are its teacher's 48 px though nothing states it, kNN on it, and the records of both."""
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    place = shutil.copytree(LEFT / "unstated", tmp_path / "unstated")
    monkeypatch.chdir(place)
    return place


def files(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def only(protocol, records=Path("results/records")):
    (path,) = records.glob(f"*-{protocol}-*.json")
    return path


KNN = ["transfer", "--task", "digits", "--protocol", "knn", "--checkpoint", "runs/unstated", "--workers", "0"]


def test_records_of_views_of_unstated_size_are_read_as_this_release_would_write_them(unstated):
    """Two runs whose views differ in size shared a recipe then; the files stay, what is read tells them apart."""
    before = files(Path("results"))
    old = [read_record(only(protocol)) for protocol in ("pretrain", "knn")]
    assert files(Path("results")) == before
    assert {json.loads(only(name).read_text())["checkpoint"]["pretrain_recipe"] for name in ("pretrain", "knn")} == {
        load_config(Path("run.toml")).stated_recipe()
    }
    now = load_config(Path("run.toml")).recipe_fingerprint()
    assert [old[0].recipe, *(record.checkpoint.pretrain_recipe for record in old)] == [now] * 3
    shutil.move("results", "old")
    assert main([*KNN]) == 0
    again = read_record(only("knn"))
    assert again.id == old[1].id
    assert (student_of(again), setting_of(again)) == (student_of(old[1]), setting_of(old[1]))


def test_a_stated_and_a_resolved_view_size_stand_in_one_column(unstated, tmp_path):
    """A run of this release that states the 48 px is a second run of the same recipe, downstream too."""
    summary = json.loads(Path("runs/unstated/run.json").read_text())
    summary["config"]["recipe"]["augment"]["view_size"] = 48
    shutil.copytree("runs/unstated", "runs/stated")
    Path("runs/stated/run.json").write_text(json.dumps(summary))
    assert main([*KNN[:-3], "runs/stated", "--workers", "0", "--results", "other"]) == 0
    old, new = read_record(only("knn")), read_record(only("knn", Path("other/records")))
    assert new.id != old.id
    assert (student_of(new), setting_of(new)) == (student_of(old), setting_of(old))


def test_the_recipe_of_a_detection_holds_its_configuration_too(unstated):
    config, path = load_config(Path("run.toml")), only("knn")
    kept = json.loads(path.read_text())
    cell = {"protocol": "detect", "task": kept["config"]["task"], "config": {"optim_wrapper": {"lr": 1e-4}}}
    kept["protocol"], kept["config"]["mmengine"] = "detect", cell["config"]
    kept["recipe"] = fingerprint({"pretrain": config.stated_recipe(), **cell})
    path.write_text(json.dumps(kept))
    assert read_record(path).recipe == fingerprint({"pretrain": config.recipe_fingerprint(), **cell})


def test_a_stored_transfer_of_views_of_unstated_size_is_found_when_it_is_asked_for_again(unstated, capsys):
    before = files(Path("results"))
    assert main([*KNN, "--dry-run"]) == 0
    assert "digits knn seed 0: done" in capsys.readouterr().out
    assert main(KNN) == 0
    assert files(Path("results")) == before


def test_a_pretraining_of_views_of_unstated_size_can_be_run_again(unstated):
    """Its settings mean the same recipe in this release."""
    record = read_record(only("pretrain"))
    shutil.copy("runs/unstated/model.safetensors", "teacher.safetensors")
    record = record.model_copy(update={"method": record.method.model_copy(update={"teacher": "test_resnet"})})
    file = Path("run.toml")
    file.write_text(file.read_text().replace('weights = "teacher.safetensors"', ""))
    assert pretraining_again(record, file, []).config.view_size == 48


def test_records_of_another_recipe_are_left_as_they_are():
    """Where the size was stated, or is the student's own, release 0.1.0 named the recipe as this one does."""
    stored = Path(__file__).resolve().parents[1] / "results" / "records"
    for folder in (stored, LEFT / "whole" / "results" / "records"):
        for path, record in read_records(folder):
            kept = json.loads(path.read_text())
            assert record.recipe == kept["recipe"]
            assert record.checkpoint.pretrain_recipe == kept["checkpoint"]["pretrain_recipe"]


def test_a_record_whose_recipe_is_of_unknown_origin_is_not_renamed(unstated):
    for protocol in ("pretrain", "knn"):
        path = only(protocol)
        kept = json.loads(path.read_text())
        kept["recipe"] = kept["checkpoint"]["pretrain_recipe"] = "0" * 16
        path.write_text(json.dumps(kept))
        record = read_record(path)
        assert record.recipe == record.checkpoint.pretrain_recipe == "0" * 16

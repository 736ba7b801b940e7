"""What release 0.1.0 left behind is still read, found again and compared."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cskd_bench.bench.rerun import pretraining_again
from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.record import read_record, read_records
from cskd_bench.report.selection import setting_of, student_of
from cskd_bench.schema import fingerprint
from cskd_bench.task_identity import narrow_record, used_by

LEFT = Path(__file__).parent / "fixtures" / "release_0_1_0"
THEN = ["--set", "features=inference"]  # what probes of that release read


@pytest.fixture
def left(tmp_path, monkeypatch):
    """A copy of what was left: settings, a bank, a run that stopped at step 5 of 9, and the same run to its end."""
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    place = shutil.copytree(LEFT, tmp_path / "left")
    monkeypatch.chdir(place)
    return place


def pretrain(folder):
    places = ["--runs", f"{folder}/runs", "--results", f"{folder}/results"]
    return main(["pretrain", "run.toml", "--bank", "bank", *places, "--set", "run.patch_measures=true"])


def test_an_interrupted_run_goes_on_from_its_checkpoint_and_ends_as_it_would_have(left, capsys, record_property):
    """It follows the losses of the run that was not interrupted; on another CPU sums round otherwise."""
    assert pretrain("half") == 0
    said = capsys.readouterr()
    assert "resuming from step 5" in said.out + said.err
    then = read_record(only("pretrain", Path("whole/results/records")))
    now = read_record(only("pretrain", Path("half/results/records")))
    assert now.id == then.id
    assert now.recipe == then.recipe and now.checkpoint.pretrain_seed == then.checkpoint.pretrain_seed
    assert now.value == pytest.approx(then.value, abs=0.02)
    assert [epoch["epoch"] for epoch in now.curve] == [1.0, 2.0, 3.0]
    for epoch, kept in zip(now.curve, then.curve, strict=True):
        assert epoch.keys() >= kept.keys()
        for name in ("label", "global", "spatial", "total", "lr", "fusion_ratio", "attention_distance"):
            assert epoch[name] == pytest.approx(kept[name], rel=1e-4), name
    for name in ("model", "ema"):
        runs = [load_file(f"{part}/runs/upgrade/{name}.safetensors") for part in ("half", "whole")]
        distances = [(runs[0][key] - kept).abs().mean().item() for key, kept in runs[1].items()]
        assert max(distances) < 1e-5
    lines = map(json.loads, Path("half/runs/upgrade/log.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "total" in line] == list(range(1, 10))
    record_property("the same bits", now.checkpoint.sha256 == then.checkpoint.sha256)  # told, not asked for


def test_a_finished_run_is_not_trained_again(left, capsys):
    before = files(Path("whole"))
    assert pretrain("whole") == 0
    said = capsys.readouterr()
    assert "upgrade: top-1 10.69 %" in said.out and "epoch" not in said.err
    after = files(Path("whole"))
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} <= {"locks"}


def test_a_bank_is_whole_and_tells_what_it_holds(left, capsys):
    assert main(["bank", "verify", "bank"]) == 0
    assert "bank: no damage; 3 of 3 epochs labelled" in capsys.readouterr().out
    assert main(["bank", "info", "bank"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["views"]["view_size"] == 32


@pytest.mark.parametrize("part", ["whole", "unstated"])
def test_records_are_sound(left, capsys, part):
    assert main(["records", "verify", "--results", f"{part}/results"]) == 0
    assert "0 problems" in capsys.readouterr().out


def test_a_finished_run_is_transferred_under_the_id_that_it_had(left):
    """Release 0.1.0 gave this record the same id, and 37.19 %."""
    words = ["transfer", "--task", "digits", "--protocol", "knn", *THEN, "--checkpoint", "whole/runs/upgrade"]
    assert main([*words, "--workers", "0"]) == 0
    record = read_record(only("knn"))
    assert record.id == "digits-knn-cskd-upgrade-s0-def6726c"
    assert record.value == pytest.approx(0.3719, abs=0.02)


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


KNN = ["transfer", "--task", "digits", "--protocol", "knn", *THEN, "--checkpoint", "runs/unstated", "--workers", "0"]


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
    cell["task"] = used_by("detect", cell["task"])
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
    """Where the size was stated, or is the student's own, release 0.1.0 named the recipe of views as this one does."""
    stored = Path(__file__).resolve().parents[1] / "results" / "records"
    left = LEFT / "whole" / "results" / "records"
    for folder, least in ((stored, 200), (left, 1)):
        records = list(read_records(folder))
        assert len(records) >= least
        for path, record in records:
            kept = json.loads(path.read_text())
            assert record.protocol == "pretrain" or narrow_record(kept)
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

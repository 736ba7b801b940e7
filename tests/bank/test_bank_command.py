"""`cskd-bench bank` and `pretrain --bank`: built in parts, verified, trained from without a teacher."""

import json
import signal
import time

import pytest
import tomlkit
from bank_runs import save_teacher, small_run
from helpers import processes
from safetensors.torch import load_file

from cskd_bench.cli import main
from cskd_bench.record import read_record

pytestmark = pytest.mark.gate


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run's TOML and its bank, built in two parts, one of them twice."""
    folder = tmp_path_factory.mktemp("command")
    config = small_run(save_teacher(folder), epochs=4).model_dump(mode="json", exclude_none=True)
    (folder / "run.toml").write_text(tomlkit.dumps(config))
    for part in ("2/2", "1/2", "1/2"):
        assert main(["bank", "build", str(folder / "run.toml"), "--output", str(folder / "bank"), "--shard", part]) == 0
    return folder


def test_info_and_verify(place, capsys):
    assert main(["bank", "info", str(place / "bank")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["complete_epochs"] == [0, 1, 2, 3] and told["views"] == 4 * 896 and told["labelling_seconds"] > 0
    assert main(["bank", "verify", str(place / "bank")]) == 0
    assert "no damage; 4 of 4 epochs labelled" in capsys.readouterr().out


def start(place, name, *words):
    places = ["--runs", str(place / "runs"), "--results", str(place / name), "--set", f"name={name}"]
    return processes.start([*processes.CSKD_BENCH, "pretrain", place / "run.toml", *places, *words])


def finish(place, name, *words):
    output = processes.end(start(place, name, *words))
    summary = json.loads((place / "runs" / name / "run.json").read_text())
    record = read_record(place / name / "records" / f"{summary['record']}.json")
    return output, record, load_file(place / "runs" / name / "model.safetensors")


def test_an_interrupted_run_from_the_bank_is_the_run_with_the_teacher_whose_file_may_be_gone(place):
    _, taught, expected = finish(place, "taught")
    from_bank = "banked", "--set", "run.save_every=2", "--bank", str(place / "bank")
    (place / "teacher.safetensors").rename(place / "away.safetensors")
    try:
        process = start(place, *from_bank)
        while not list((place / "runs" / "banked").glob("checkpoints/step-*")):
            assert process.poll() is None, processes.finish(process, 30)
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        output, _ = processes.finish(process)
        assert process.returncode == 75, output
        output, banked, found = finish(place, *from_bank)
        assert "resuming from step" in output
    finally:
        (place / "away.safetensors").rename(place / "teacher.safetensors")
    assert all((found[name] == expected[name]).all() for name in expected)
    assert banked.metrics == taught.metrics
    assert banked.method == taught.method
    assert banked.config == {**taught.config, "name": "banked", "run": banked.config["run"]}
    assert banked.note.startswith("teacher labels from a bank; the teacher's file is not on this machine")
    assert taught.note == ""
    assert banked.cost.labelling_seconds > 0 == taught.cost.labelling_seconds


def test_a_damaged_bank_and_wrong_words_are_named(place, tmp_path, capsys):
    config, bank = str(place / "run.toml"), str(place / "bank")
    assert main(["pretrain", config, "--bank", bank, "--set", "seed=9", "--runs", str(tmp_path)]) == 2
    assert "does not match this run" in capsys.readouterr().err
    assert main(["bank", "info", str(tmp_path / "nowhere")]) == 2
    assert main(["bank", "build", config, "--output", bank, "--epochs", "0:9"]) == 2
    for words in (["--epochs", "all"], ["--shard", "2"]):
        with pytest.raises(SystemExit) as stopped:
            main(["bank", "build", config, "--output", bank, *words])
        assert stopped.value.code == 2
    capsys.readouterr()
    assert main(["bank", "build", config, "--output", str(tmp_path / "long"), "--set", "recipe.epochs=30000"]) == 2
    assert "up to 20,000 epochs" in capsys.readouterr().err and not (tmp_path / "long").exists()
    manifest = json.loads((place / "bank" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "epochs": 30000}))
    assert main(["bank", "info", str(tmp_path)]) == 2
    assert "epochs" in capsys.readouterr().err
    shard = next((place / "bank").rglob("*.labels"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["bank", "verify", bank]) == 1
    assert shard.name in capsys.readouterr().out

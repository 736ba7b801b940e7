"""A run that was killed, stopped or damaged ends with the same bits as one that never was."""

import json
import os
import shutil
import signal
import time

import pytest
from helpers.processes import finish, kill
from safetensors.torch import load_file, save_file

from cskd_bench.engine.provenance import now

pytestmark = pytest.mark.gate


def wait_for_checkpoint(run, process, at_least=1):
    for _ in range(2400):
        found = sorted(run.checkpoints.glob("step-*")) if run.checkpoints.exists() else []
        if found and int(found[-1].name.split("-")[1]) >= at_least:
            return
        assert process.poll() is None, finish(process, 30)
        time.sleep(0.02)
    raise AssertionError("no checkpoint appeared")


def kept_record(run):
    (file,) = (run.folder / "results" / "records").glob("*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_started_again_is_bit_equal(new_run, uninterrupted, same_end, workers):
    for after in (1, 5):
        process = new_run.start(f"run.workers={workers}")
        wait_for_checkpoint(new_run, process, at_least=after)
        kill(process)
        finish(process, 30)
    output = new_run.finish(f"run.workers={workers}")
    assert "resuming from step" in output
    same_end(new_run, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_asked_to_stop_it_writes_a_checkpoint_and_exits_75(new_run, uninterrupted, same_end, number, workers):
    """A terminal's Ctrl-C and Slurm's signal reach the loader's workers as well."""
    process = new_run.start("run.save_every=1000", f"run.workers={workers}")
    wait_for_checkpoint(new_run, process)
    os.killpg(process.pid, number)
    output, _ = finish(process)
    assert process.returncode == 75, output
    assert "the same command continues from here" in output
    stopped = now()
    new_run.finish("run.save_every=1000")
    same_end(new_run, uninterrupted)
    whole, resumed = (kept_record(run) for run in (uninterrupted, new_run))
    assert (whole["resumptions"], resumed["resumptions"]) == (0, 1)
    assert resumed["started"] <= stopped <= resumed["created"]  # when the first process began


def test_micro_batches_change_nothing_but_rounding(new_run, tmp_path):
    """Without stochastic depth, whose draws are per micro-batch, two halves add up to the whole."""
    whole = type(new_run)(new_run.config, tmp_path / "whole")
    settings = "recipe.epochs=1", "student.drop_path=0.0"
    whole.finish(*settings)
    new_run.finish(*settings, "run.accumulate=2")
    ours, theirs = new_run.weights(), whole.weights()
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-5


def test_a_changed_recipe_is_refused_with_the_difference(new_run):
    process = new_run.start()
    wait_for_checkpoint(new_run, process)
    kill(process)
    finish(process, 30)
    before = sorted(p.name for p in new_run.checkpoints.iterdir() if p.name.startswith("step"))
    refused = new_run.start("recipe.optim.lr=0.1")
    output, _ = finish(refused)
    assert refused.returncode == 2
    assert "recipe.optim.lr was 0.001, is 0.1" in output
    assert "Traceback" not in output
    assert sorted(p.name for p in new_run.checkpoints.iterdir() if p.name.startswith("step")) == before


def test_a_finished_run_is_not_trained_again(uninterrupted):
    record = next((uninterrupted.folder / "results" / "records").glob("*.json"))
    before = record.read_bytes()
    output = uninterrupted.finish()
    assert "epoch" not in output
    assert record.read_bytes() == before
    refused = uninterrupted.start("method.decay=cosine")
    output, _ = finish(refused)
    assert refused.returncode == 2
    assert "method.decay was 'linear', is 'cosine'" in output


def test_the_curve_shows_the_method_at_work(uninterrupted):
    record = json.loads(next((uninterrupted.folder / "results" / "records").glob("*.json")).read_text())
    assert [round(entry["fusion_ratio"], 6) for entry in record["curve"]] == [1.0, 0.75, 0.5, 0.25]
    for entry in record["curve"]:
        total = 0.5 * entry["label"] + 0.5 * entry["global"] + entry["spatial"]
        assert entry["total"] == pytest.approx(total, rel=1e-5)
        assert 0 <= entry["spatial_agreement"] <= 1
    assert record["metrics"]["top1"] == record["curve"][-1]["top1"]


def test_a_repeated_run_leaves_the_record_of_the_first(new_run):
    """Its folder is gone and its weights come out differently: record and predictions stay, nothing is lost."""
    first, second = new_run.start(), new_run.start()  # at the same run at once: one waits for the other
    said = finish(first)[0] + finish(second)[0]
    assert first.returncode == second.returncode == 0, said
    assert said.count("another process is at it") == 1
    (file,) = (new_run.folder / "results" / "records").glob("*.json")
    record = json.loads(file.read_text())
    record["checkpoint"]["sha256"] = "0" * 64  # as if made on another machine
    file.write_text(json.dumps(record))
    predictions = file.with_name(record["per_example"]["name"])
    predictions.write_bytes(b"those of the first")
    before = file.read_bytes()
    shutil.rmtree(new_run.folder / "runs")
    process = new_run.start()
    output, _ = finish(process)
    assert process.returncode == 2 and "ended with other weights" in output, output
    assert file.read_bytes() == before and predictions.read_bytes() == b"those of the first"
    file.write_text(json.dumps(record | {"checkpoint": record["checkpoint"] | {"sha256": new_run.sha256()}}))
    new_run.finish()  # the same weights: the record is this run's, too
    assert (new_run.folder / "runs" / "tiny" / "run.json").exists()
    assert predictions.read_bytes() == b"those of the first"


def test_a_teacher_whose_response_is_not_finite_stops_the_run(new_run, tiny_teacher, tmp_path):
    """The largest of a response that is not finite would be a label like any other."""
    state = load_file(tiny_teacher)
    state["head.fc.weight"] = state["head.fc.weight"].sign() * 3e38  # finite, unlike its products
    save_file(state, tmp_path / "huge.safetensors")
    process = new_run.start(f'teacher.weights="{tmp_path / "huge.safetensors"}"')
    output, _ = finish(process)
    assert process.returncode == 2, output
    assert "the teacher's response is not finite at step 1" in output and "teacher.weights" in output


def test_a_loss_that_is_not_finite_stops_before_the_update(new_run):
    """A learning rate beyond reason: the run ends with a sentence, and its checkpoints are finite."""
    process = new_run.start("recipe.optim.lr=1e30", "recipe.optim.warmup_lr=1e30", "recipe.optim.warmup_epochs=0")
    output, _ = finish(process)
    assert process.returncode == 2, output
    assert "loss is not finite at step" in output and "images" in output
    for path in new_run.checkpoints.glob("step-*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())

"""Weights from the middle of a run stay, and are read as those of its end are."""

import errno
import json

import pytest
import torch
from safetensors.torch import load_file

from cskd_bench.cells import milestones
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.engine import state
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.estimate import estimate
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.run_summary import read_run
from cskd_bench.record import read_record
from cskd_bench.report.compare import compare
from cskd_bench.report.recompute import contradictions
from cskd_bench.report.selection import select
from cskd_bench.report.titles import titles
from cskd_bench.task import load_task

ALONE = Ranks(0, 1, torch.device("cpu"))
EVERY_OTHER = "run.keep_every=2"
FILES = ["ema.safetensors", "model.safetensors", "run.json"]


@pytest.fixture(scope="module")
def place(tiny_config, tmp_path_factory):
    """A finished run of five epochs, whose every checkpoint was kept, too."""
    folder = tmp_path_factory.mktemp("milestones")
    config = load_config(tiny_config, [EVERY_OTHER, "recipe.epochs=5", "run.keep=99"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cskd_bench.cells.pretrain.shutil.rmtree", lambda *_, **__: None)
        pretrain(config, folder / "runs", folder / "results", ALONE)
    return folder


@pytest.fixture(scope="module")
def second(place):
    return place / "runs" / "tiny" / "milestones" / "epoch_0002"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_run_began_with_is_the_same_whichever_epoch_is_named(place, second):
    run, milestone = (load_checkpoint(folder, weights="initial") for folder in (place / "runs" / "tiny", second))
    assert run.checkpoint == milestone.checkpoint and run.tuning_identity() == milestone.tuning_identity() == {}


def test_every_other_epoch_stays_with_the_weights_of_its_checkpoint(place):
    run = place / "runs" / "tiny"
    assert names(run / "milestones") == ["epoch_0002", "epoch_0004"]
    for epoch in (2, 4):
        folder = run / "milestones" / f"epoch_{epoch:04d}"
        assert names(folder) == FILES
        for kind, weights in (("model", "raw"), ("ema", "ema")):
            kept = load_file(run / "checkpoints" / f"step-{3 * epoch:09d}" / f"{kind}.safetensors")
            loaded = load_checkpoint(folder, weights=weights)
            assert all(torch.equal(tensor, kept[name]) for name, tensor in loaded.student.state_dict().items())


def test_a_run_keeps_none_unasked_and_not_its_last_epoch_twice(tiny_config, tmp_path):
    for setting, kept in (("run.keep_every=2", ["epoch_0002"]), ("run.eval_every=9", [])):
        runs = tmp_path / setting
        pretrain(load_config(tiny_config, [setting]), runs, runs / "results", ALONE)
        folder = runs / "tiny" / "milestones"
        assert (names(folder) if folder.exists() else []) == kept
        assert not (runs / "tiny" / "checkpoints").exists()


def test_a_milestone_stands_beside_others_of_its_epoch_alone(place, second):
    last, then = load_checkpoint(place / "runs" / "tiny"), load_checkpoint(second)
    assert (last.checkpoint.run, then.checkpoint.run) == ("tiny", "tiny-epoch-2")
    recipes = {load_checkpoint(second.with_name(name)).checkpoint.pretrain_recipe for name in names(second.parent)}
    assert len(recipes | {last.checkpoint.pretrain_recipe}) == 3
    assert then.checkpoint.pretrain_recipe == then.pretrain_config.recipe_fingerprint(2)
    with pytest.raises(UserError, match=r"holds a milestone \(epoch 2\), not a finished pretraining run"):
        read_run(second)


def test_transfer_reads_it_and_the_record_says_which_epoch(place, second, colour_squares, tmp_path):
    task = tmp_path / "squares.toml"
    task.write_text(f'protocols = ["knn"]\n[data]\nroot = "{colour_squares}"\nnum_classes = 3\n')
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--workers", "0"]
    for checkpoint in (second, place / "runs" / "tiny"):
        assert main(["transfer", "--checkpoint", str(checkpoint), "--task", str(task), *words]) == 0
    records = [read_record(path) for path in sorted((tmp_path / "results" / "records").glob("*.json"))]
    assert sorted(record.config.get("milestone", 0) for record in records) == [0, 2]
    assert [contradictions(record) for record in records] == [[], []]
    assert len({record.recipe for record in records}) == 2, "no table averages over both"
    folder = tmp_path / "results" / "records"
    heads = titles(compare(folder, select(folder, include_dirty=True)).tables)
    assert sorted("weights of epoch 2" in head for head in heads) == [False, True], heads


def test_export_and_explain_read_it(second, colour_squares, tmp_path):
    image = next(colour_squares.rglob("*.png"))
    export = ["export", "--checkpoint", str(second), "--to", "timm", "--output", str(tmp_path / "exported")]
    assert main([*export, "--results", str(tmp_path)]) == 0
    assert main(["explain", "--checkpoint", str(second), "--image", str(image), "--output", str(tmp_path / "e")]) == 0
    assert (tmp_path / "exported" / "model.safetensors").exists() and names(tmp_path / "e")


def test_a_full_disk_ends_the_run_in_a_sentence_and_it_goes_on_to_the_same_weights(place, tiny_config, tmp_path):
    """The disk is full under the second file; a process that was killed there would leave a folder of its own."""
    config, real = load_config(tiny_config, [EVERY_OTHER, "recipe.epochs=5"]), milestones.save_tensors

    def full(path, tensors):
        if path.name == "ema.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, tensors)

    folder = tmp_path / "runs" / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milestones, "save_tensors", full)
        with pytest.raises(UserError, match=r"epoch_0002: the milestone could not be written .*No space left"):
            pretrain(config, tmp_path / "runs", tmp_path / "results", ALONE)
    assert names(folder / "milestones") == [], "all of it or nothing"
    assert names(folder / "checkpoints")[-1] == "step-000000004", "the last one before it"
    (folder / "milestones" / ".writing-epoch_0002-1-a").mkdir()
    pretrain(config, tmp_path / "runs", tmp_path / "results", ALONE)
    assert names(folder / "milestones") == ["epoch_0002", "epoch_0004"]
    for epoch in names(folder / "milestones"):
        theirs = place / "runs" / "tiny" / "milestones" / epoch
        found = [json.loads((each / epoch / "run.json").read_text()) for each in (folder / "milestones", theirs.parent)]
        assert found[0]["sha256"] == found[1]["sha256"]


def test_a_milestone_is_there_once_its_checkpoint_is(tiny_config, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    config = load_config(tiny_config, [EVERY_OTHER, "run.save_every=1000"])
    real = state.save_checkpoint
    monkeypatch.setattr(
        state, "save_checkpoint", lambda to, saved, keep: (killed if saved.step == 6 else real)(to, saved, keep)
    )
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "runs", tmp_path / "results", ALONE)
    assert names(tmp_path / "runs" / "tiny" / "milestones") == ["epoch_0002"]


def test_the_dry_run_counts_what_stays_and_what_workers_hold(tiny_config):
    plain, kept = (estimate(load_config(tiny_config, settings)) for settings in ([], [EVERY_OTHER, "recipe.epochs=6"]))
    assert (plain.milestones, kept.milestones) == (0, 2)
    assert kept.disk_bytes - plain.disk_bytes == 2 * kept.milestone_bytes == 2 * 2 * 4 * kept.student_parameters
    batch = 16 * 3 * 64**2
    half = estimate(load_config(tiny_config, ["run.workers=2", f"run.prefetch_memory={4 * batch}"]))
    assert (half.batches_ahead(1), half.batches_ahead(2)) == (2, 4)


def test_a_task_cannot_ask_for_milestones(colour_squares, tmp_path):
    task = tmp_path / "squares.toml"
    task.write_text(f'protocols = ["knn"]\n[data]\nroot = "{colour_squares}"\nnum_classes = 3\n[run]\nkeep_every = 2\n')
    with pytest.raises(UserError, match=r"run\.keep_every is for pretraining alone"):
        load_task(str(task))

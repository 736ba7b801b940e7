"""Evaluations: what a pretraining's last epoch says of the training split, and what they leave as it was."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import load_config
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import FolderSource
from cskd_bench.engine import scores, training
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import evaluate
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint

CPU = torch.device("cpu")


def run(config, folder, *settings):
    loaded = load_config(config, ["recipe.epochs=2", *settings])
    return loaded, pretrain(loaded, folder / "runs", folder / "results", Ranks(0, 1, CPU))


def test_every_step_is_taken_in_training_mode_also_after_an_evaluation(tiny_config, tmp_path, monkeypatch):
    """Stochastic depth, dropout and batch norms would stand still otherwise, from the second epoch on."""
    modes, step = [], training._Run._train_step
    monkeypatch.setattr(
        training._Run, "_train_step", lambda self, bar: (modes.append(self.student.training), step(self, bar))[1]
    )
    run(tiny_config, tmp_path)
    assert modes == [True] * 6


def test_a_record_holds_the_accuracy_on_training_images(tiny_config, tmp_path):
    config, record = run(tiny_config, tmp_path)
    student = load_checkpoint(tmp_path / "runs" / config.name).student.eval()
    train = open_source(config.data, "train")
    view = scores.EvalView(config.student.image_size, config.data.eval_crop, "bicubic")
    again = evaluate(student.predict, train, view, Ranks(0, 1, CPU), batch_size=7, workers=0)
    assert record.metrics["train_top1"] == again.top1 == record.curve[-1]["train_top1"]
    assert "train_top1" not in record.curve[0]
    lines = (tmp_path / "runs" / config.name / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["train_top1"] == again.top1


def test_of_a_large_split_evenly_spaced_images_are_scored(tiny_config, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(scores, "MOST_TRAINING_IMAGES", 20)
    before = scores.score_split
    monkeypatch.setattr(
        scores, "score_split", lambda job, split, *rest: seen.append(split) or before(job, split, *rest)
    )
    config, _ = run(tiny_config, tmp_path)
    train = open_source(config.data, "train")
    every = -(-len(train) // 20)
    assert len(train) > 20
    assert np.array_equal(seen[-1].labels, train.labels[::every])


def test_an_image_that_cannot_be_read_takes_the_score_and_not_the_run(tiny_config, tmp_path, monkeypatch, capsys):
    def fail(self, index):
        if len(self) > 24:
            raise UserError("a.png: not a readable image")
        return before(self, index)

    before, fit = FolderSource.load, scores._training_accuracy

    def broken(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(FolderSource, "load", fail)
            return fit(*arguments)

    monkeypatch.setattr(scores, "_training_accuracy", broken)
    _, record = run(tiny_config, tmp_path)
    assert "train_top1" not in record.metrics and 0 <= record.metrics["top1"] <= 1
    assert "the training split is not scored: a.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("split", "chosen"),
    [("train[::4]", slice(None, None, 4)), ("train[3:9]", slice(3, 9)), ("train[:5]+val", slice(5))],
)
def test_a_slice_of_a_split_is_pythons(tiny_config, split, chosen):
    data = load_config(tiny_config).data
    whole, part = open_source(data, "train"), open_source(data, split)
    expected = whole.labels[chosen]
    assert np.array_equal(part.labels[: len(expected)], expected)
    if "+" not in split:
        assert len(part) == len(expected)
        assert part.load(1).tobytes() == whole.load(range(len(whole))[chosen][1]).tobytes()
    assert part.identity != whole.identity


def test_a_folder_may_be_called_like_a_slice(tiny_config, tmp_path):
    data = load_config(tiny_config).data.model_copy(update={"root": str(tmp_path)})
    plain = load_config(tiny_config).data.root
    (tmp_path / "train").symlink_to(Path(plain) / "train")
    for name in ("train[old]", "train[::2]"):
        (tmp_path / name).symlink_to(Path(plain) / "val")
        assert np.array_equal(open_source(data, name).labels, open_source(load_config(tiny_config).data, "val").labels)
    assert len(open_source(data, "train[::3]")) == len(open_source(data, "train")) / 3


@pytest.mark.parametrize("split", ["train[4]", "train[::0]", "train[-4:]", "train[9999:]", "[::2]"])
def test_a_slice_that_is_none_or_empty_is_named(tiny_config, split):
    with pytest.raises(UserError, match=r"a slice is like|holds none of the|no such folder"):
        open_source(load_config(tiny_config).data, split)


def test_an_epochs_line_shows_every_loss_of_its_method():
    job = SimpleNamespace(title="run", recipe=SimpleNamespace(epochs=9))
    entry = {"epoch": 2.0, "lr": 0.1, "fusion_ratio": 0.0, "label": 1.0, "own": 0.25, "total": 1.25, "top1": 0.5}
    entry |= {"attention_distance": 3.0, "patch_top1": 0.1}
    assert (
        scores.epoch_line(job, entry, 1234.0)
        == "run: epoch 2/9  total 1.250  label 1.000  own 0.250  top1 50.0 %  1,234 img/s"
    )

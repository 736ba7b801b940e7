"""Training on a few labels: a probe by default; fine-tuning takes the steps of the whole recipe, not its epochs."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.engine.distributed import Ranks
from cskd_bench.task import LowlabelConfig, load_task
from cskd_bench.transfer import finetune
from cskd_bench.transfer.lowlabel import repeat_to_full_length
from cskd_bench.transfer.run import transfer

MODEL = "vit_tiny_patch16_224"
A_TENTH = ["protocols=['lowlabel']", "image_size=32", "lowlabel.fractions=[0.1]", "finetune.optim.lr=5e-4"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(timm.create_model(MODEL, img_size=32).state_dict(), path)
    return path


def score(weights, place, *settings):
    """Score a tenth of the digits' labels; return the record."""
    task = load_task("digits", None, [*A_TENTH, *settings])
    ranks = Ranks(0, 1, torch.device("cpu"))
    return transfer(
        task, "lowlabel", weights, 0, results=place / "r", work=place / "w", ranks=ranks, model=MODEL, workers=0
    )


def test_few_images_are_repeated_to_the_length_of_an_epoch():
    repeated = repeat_to_full_length(np.asarray([3, 5, 8]), 10)
    assert repeated.tolist() == [3, 5, 8, 3, 5, 8, 3, 5, 8, 3]
    assert repeat_to_full_length(np.asarray([3, 5, 8]), 3).tolist() == [3, 5, 8]


def test_a_probe_is_the_default_and_fine_tuning_keeps_steps():
    assert (LowlabelConfig().classifier, LowlabelConfig().schedule) == ("linear", "steps")


@pytest.mark.parametrize(("schedule", "images"), [("steps", 899), ("epochs", 90)])
def test_fine_tuning_sees_as_many_views_as_on_all_images(weights, tmp_path, monkeypatch, schedule, images):
    seen = []
    monkeypatch.setattr(finetune, "fit", lambda job, *_: seen.append((job, job.train.labels)) or stop())

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        score(weights, tmp_path, "lowlabel.classifier=finetune", f"lowlabel.schedule={schedule}")
    ((job, labels),) = seen
    assert len(labels) == pytest.approx(images, abs=1)
    assert (job.recipe.epochs, job.recipe.batch_size) == (6, 64)
    assert len({job.train.load(index).tobytes() for index in range(len(labels))}) <= 91  # of a tenth of the images


@pytest.mark.gate
def test_fine_tuning_on_few_labels_stands_near_the_probe(weights, tmp_path):
    """With the recipe's epochs it took 4 steps of 56 and stood at a third of the probe's score."""
    probe = score(weights, tmp_path).value
    tuned = ["lowlabel.classifier=finetune", "finetune.epochs=4"]
    assert probe > 0.7
    assert score(weights, tmp_path / "steps", *tuned).value > probe - 0.08
    assert score(weights, tmp_path / "epochs", *tuned, "lowlabel.schedule=epochs").value < probe - 0.3

"""A run with a convolutional stem, a mean token and three-augment, from pretraining through all that reads it."""

import numpy as np
import pytest
import torch
from helpers.tiny import PLAIN_VIEWS, save_model, teacher, write_run
from PIL import Image

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import load_config
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.explain.run import explain
from cskd_bench.export import export_onnx, export_timm
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.stem import ConvStem, MeanTokenViT
from cskd_bench.task import load_task
from cskd_bench.transfer.run import transfer

RANKS = Ranks(0, 1, torch.device("cpu"))
TASK = """
protocols = ["finetune", "knn"]
image_size = 48
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[finetune]
epochs = 3
batch_size = 16
[finetune.optim]
lr = 3e-3
[knn]
k = 5
"""
SCENES = """
group = "segmentation"
protocols = ["segment"]
metric = "miou"
[data]
dataset = "segmentation"
root = "{data}"
num_classes = 2
[segment]
size = [32, 64]
c_grid = [1.0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, colour_squares):
    """A finished pretraining run, and the folder of its results."""
    folder = tmp_path_factory.mktemp("run")
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    changes = {"data.root": colour_squares, "data.eval_crop": 1.0, "method.kind": "deit", "recipe.optim.lr": 3e-3}
    changes |= {"student.stem": "conv", "student.distillation_token": "mean", "recipe.augment.policy": "three"}
    write_run(folder / "tiny.toml", changes | PLAIN_VIEWS | teacher(weights))
    record = pretrain(load_config(folder / "tiny.toml"), folder / "runs", folder / "results", RANKS)
    assert record.model.name.endswith(" stem=conv distillation-token=mean")
    return folder


def do(folder, task, protocol):
    return transfer(
        task, protocol, folder / "runs" / "tiny", 0,
        results=folder / "results", work=folder / "work", ranks=RANKS, workers=0, keep_weights=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def task(folder, colour_squares):
    (folder / "squares.toml").write_text(TASK.format(data=colour_squares))
    return load_task(str(folder / "squares.toml"))


def test_both_kinds_of_weights_are_loaded_with_their_statistics(folder):
    for weights in ("raw", "ema"):
        model = load_checkpoint(folder / "runs" / "tiny", weights=weights).student.model
        assert isinstance(model, MeanTokenViT) and isinstance(model.patch_embed, ConvStem)
        assert not torch.equal(model.patch_embed.proj[1].running_var, torch.ones(64))
        assert model.patch_embed.proj[1].num_batches_tracked > 0


def test_it_is_tuned_and_probed_at_another_size_and_the_tuned_run_is_read(folder, task, tmp_path):
    assert do(folder, task, "knn").value > 0.8
    tuned = do(folder, task, "finetune")
    assert tuned.value > 0.8
    loaded = load_checkpoint(folder / "work" / tuned.id)
    assert (loaded.image_size, loaded.student.grid) == (48, (6, 6))
    assert isinstance(loaded.student.model.patch_embed, ConvStem)
    export_onnx(folder / "work" / tuned.id, tmp_path / "tuned.onnx")


def test_onnx_gives_the_native_logits(folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(folder / "runs" / "tiny", tmp_path / "student.onnx")
    student, views = load_checkpoint(folder / "runs" / "tiny").student, torch.rand(5, 3, 32, 32)
    (logits,) = onnxruntime.InferenceSession(tmp_path / "student.onnx").run(None, {"views": views.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), student.predict(views), atol=1e-5, rtol=1e-5)


def test_timm_has_no_such_architecture_and_the_sentence_says_what_works(folder, tmp_path):
    with pytest.raises(UserError, match=r"timm has no architecture with stem.*--to onnx, or hand on its run folder"):
        export_timm(folder / "runs" / "tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_is_explained(folder, tmp_path):
    Image.effect_noise((96, 80), 60).convert("RGB").save(tmp_path / "photo.png")
    assert len(explain(folder / "runs" / "tiny", tmp_path / "photo.png", tmp_path / "pictures")) == 3


def test_its_patch_tokens_segment_images_of_another_shape(folder, tmp_path):
    """Half of every image is dark, the other half bright."""
    draw = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 2, "test": 3}.items():
        for kind in ("images", "labels"):
            (tmp_path / "scenes" / kind / split).mkdir(parents=True)
        for number in range(count):
            label = np.zeros((32, 64), np.uint8)
            label[:, : 16 * draw.integers(1, 4)] = 1
            pixels = (draw.integers(0, 60, (32, 64, 3)) + 180 * label[..., None]).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "scenes" / "images" / split / f"{number}.png")
            Image.fromarray(label).save(tmp_path / "scenes" / "labels" / split / f"{number}.png")
    (tmp_path / "scenes.toml").write_text(SCENES.format(data=tmp_path / "scenes"))
    assert do(folder, load_task(str(tmp_path / "scenes.toml")), "segment").value > 0.9

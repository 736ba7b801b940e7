"""Weights from elsewhere: official DeiT files, trainers' checkpoints, the paper's code, other resolutions."""

from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.errors import UserError
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import load_checkpoint

PLAIN, DISTILLED, CSKD = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "cskd_tiny_patch16_224"


@pytest.fixture(scope="module")
def distilled():
    torch.manual_seed(0)
    return timm.create_model(DISTILLED).eval()


@pytest.fixture(scope="module")
def views():
    return torch.rand(2, 3, 224, 224)


def native(model, views):
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return model((views - mean) / std)


def ours(path, name, views):
    with torch.no_grad():
        return load_checkpoint(path, model=name).student.predict(views)


@pytest.mark.parametrize(
    "content",
    [
        lambda state: {"model": state},  # as DeiT publishes them
        lambda state: {"model": state, "optimizer": {"step": 3}, "epoch": 3, "args": Namespace(lr=5e-4, data="/data")},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: state,
    ],
    ids=["published", "trainer", "wrapped", "plain"],
)
def test_deit_distilled_files_give_timms_logits(content, distilled, views, tmp_path):
    torch.save(content(distilled.state_dict()), tmp_path / "deit.pth")
    torch.testing.assert_close(ours(tmp_path / "deit.pth", DISTILLED, views), native(distilled, views))


@pytest.mark.parametrize(("raw", "ema"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_averaged_weights_of_a_trainers_file_are_another_checkpoint(raw, ema, distilled, views, tmp_path):
    """DeiT's trainer and timm's: both keep the two side by side, and one file's SHA-256 names both."""
    averaged = {name: tensor * 0.5 for name, tensor in distilled.state_dict().items()}
    torch.save({raw: distilled.state_dict(), ema: averaged}, tmp_path / "both.pth")
    torch.save({ema: averaged}, tmp_path / "ema.pth")
    first = load_checkpoint(tmp_path / "both.pth", model=DISTILLED)
    second = load_checkpoint(tmp_path / "both.pth", model=DISTILLED, weights="ema")
    assert torch.equal(first.student.model.cls_token * 0.5, second.student.model.cls_token)
    assert first.weights_identity() != second.weights_identity()
    assert (second.checkpoint.weights, second.method.label) == ("ema", first.method.label[:-1] + " ema)")
    with pytest.raises(UserError, match="holds averaged weights alone; take them with --weights ema"):
        load_checkpoint(tmp_path / "ema.pth", model=DISTILLED)
    torch.save({raw: distilled.state_dict()}, tmp_path / "raw.pth")
    with pytest.raises(UserError, match="holds no averaged weights"):
        load_checkpoint(tmp_path / "raw.pth", model=DISTILLED, weights="ema")


def test_weights_that_are_not_finite_are_refused(distilled, tmp_path):
    state = {name: tensor.clone() for name, tensor in distilled.state_dict().items()}
    state["head.bias"][3] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"not finite \(NaN or infinite\): head\.bias"):
        load_checkpoint(tmp_path / "nan.safetensors", model=DISTILLED)


def test_plain_deit_gives_timms_logits(views, tmp_path):
    model = timm.create_model(PLAIN).eval()
    save_file(model.state_dict(), tmp_path / "deit.safetensors")
    torch.testing.assert_close(ours(tmp_path / "deit.safetensors", PLAIN, views), native(model, views))


def test_the_papers_checkpoint_gives_the_mean_of_three_heads(distilled, views, tmp_path):
    """Its code keeps a DeiT-distilled state dict under `model` and reads three heads from it."""
    content = {"epoch": 300, "best_val_acc": 76.3, "model": distilled.state_dict(), "scaler": {"scale": 65536.0}}
    torch.save(content, tmp_path / "latest")
    student = load_checkpoint(tmp_path / "latest", model=CSKD).student
    with torch.no_grad():
        tokens = student.tokens(views)
        heads = distilled.head(tokens[:, 0]), distilled.head_dist(tokens[:, 1]), distilled.head_dist(tokens[:, 2:])
        expected = (heads[0] + heads[1] + heads[2].mean(1)) / 3
        torch.testing.assert_close(student.predict(views), expected)
    architectures.register()
    assert student.heads == "class+dist+patch"


def test_another_resolution_resizes_position_embeddings_and_keeps_the_tokens(distilled, tmp_path):
    save_file(distilled.state_dict(), tmp_path / "deit.safetensors")
    loaded = load_checkpoint(tmp_path / "deit.safetensors", model=DISTILLED, image_size=384)
    assert loaded.student.model.pos_embed.shape == (1, 2 + 24 * 24, 192)
    assert torch.equal(loaded.student.model.pos_embed[:, :2], distilled.pos_embed[:, :2])


def test_weights_of_another_model_are_refused_with_names(distilled, tmp_path):
    save_file(distilled.state_dict(), tmp_path / "deit.safetensors")
    with pytest.raises(UserError, match="has unknown dist_token"):
        load_checkpoint(tmp_path / "deit.safetensors", model=PLAIN)

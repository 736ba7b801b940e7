"""Checkpoints as trainers leave them: whatever wraps the names, any number of classes, and nothing half loaded."""

import json
import os
import pickle
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.errors import UserError
from cskd_bench.models import hub
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.hub import hash_state
from cskd_bench.models.weights import read_state
from cskd_bench.record import sha256_file

PLAIN, DISTILLED, CNN = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "test_byobnet"
SMALL = {"img_size": 32, "num_classes": 10}


class Hyper:
    """What Lightning keeps beside the weights."""


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def model():
    """A DeiT of ten classes at 32 px."""
    torch.manual_seed(0)
    return timm.create_model(PLAIN, **SMALL).eval()


@pytest.fixture(scope="module")
def state(model):
    return model.state_dict()


def backbone(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("head")}


def wrap(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def saved(path, content):
    torch.save(content, path)
    return path


def dino_head():
    head = {"mlp.0.weight": torch.ones(8, 192), "mlp.0.bias": torch.ones(8), "last_layer.weight_v": torch.ones(9, 8)}
    return wrap("head.", head)


def dino(state):
    """As DINO's trainer saves: the student under DataParallel, the teacher, and what it needs to go on."""
    student = wrap("module.backbone.", backbone(other(state))) | wrap("module.", dino_head())
    teacher = wrap("backbone.", backbone(state)) | dino_head()
    return {"student": student, "teacher": teacher, "optimizer": {"state": {}}, "epoch": 3, "args": Namespace(lr=1.0)}


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: wrap("_orig_mod.module.model.", state),
        lambda state: {"state_dict": wrap("module._orig_mod.", state) | {"n_averaged": torch.ones(1)}},
        lambda state: {"state_dict": wrap("model.", state) | {"criterion.weight": torch.ones(10)}, "epoch": 1},
        lambda state: {"state_dict": wrap("net.", state), "optimizer_states": [{"state": {}}], "loops": {}},
        lambda state: {"state_dict": wrap("student.", state) | wrap("teacher.", {"stem.weight": torch.ones(3)})},
        lambda state: {"state_dict": wrap("backbone.", state), "meta": {"epoch": 2}},
        lambda state: {"model": state | {"mask_token": torch.ones(1, 192)}, "num_updates": 7},
    ],
    ids=["plain", "compiled", "averaged", "lightning", "net", "distilled", "backbone", "masked"],
)
def test_wrapped_names_are_unwrapped_and_the_head_says_how_many_classes(content, model, state, tmp_path):
    loaded = load_checkpoint(saved(tmp_path / "any.pth", content(state)), model=PLAIN, image_size=32)
    assert (loaded.num_classes, loaded.no_head) == (10, "")
    views = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model((views - loaded.student.mean) / loaded.student.std)
        assert torch.equal(loaded.student.predict(views), expected)


def test_of_dinos_two_models_the_teacher_is_taken_without_its_projection(state, tmp_path):
    loaded = load_checkpoint(saved(tmp_path / "dino.pth", dino(state)), model=PLAIN, image_size=32)
    assert torch.equal(loaded.student.model.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])
    assert (loaded.num_classes, loaded.no_head) == (0, "head.weight is missing")
    assert loaded.student.features(torch.rand(2, 3, 32, 32), "cls+patch").shape == (2, 384)
    alone = {"student": dino(state)["student"]}
    loaded = load_checkpoint(saved(tmp_path / "student.pth", alone), model=PLAIN, image_size=32)
    assert torch.equal(loaded.student.model.cls_token, state["cls_token"] + 1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, "head.weight is missing"),
        ({"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}, "head.weight has shape 10 x 64"),
        ({"head.weight": torch.ones(10, 192, 1), "head.bias": torch.ones(10)}, "head.weight has shape 10 x 192 x 1"),
        ({"head.weight": torch.ones(10, 192)}, "head.bias is missing"),
    ],
)
def test_a_head_that_cannot_be_used_is_left_out(changed, why, state, tmp_path):
    save_file(backbone(state) | changed, tmp_path / "any.safetensors")
    loaded = load_checkpoint(tmp_path / "any.safetensors", model=PLAIN, image_size=32)
    assert loaded.num_classes == 0 and loaded.no_head.startswith(why)


def test_two_heads_of_different_classes_are_no_head(tmp_path):
    state = timm.create_model(DISTILLED, num_classes=10).state_dict()
    save_file(state, tmp_path / "ten.safetensors")
    assert load_checkpoint(tmp_path / "ten.safetensors", model=DISTILLED).num_classes == 10
    state |= {"head_dist.weight": torch.ones(9, 192), "head_dist.bias": torch.ones(9)}
    save_file(state, tmp_path / "odd.safetensors")
    assert load_checkpoint(tmp_path / "odd.safetensors", model=DISTILLED).num_classes == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("blocks.3.attn.proj.weight"), r"lacks blocks\.3\.attn\.proj\.weight"),
        (lambda state: state.update({"blocks.12.norm1.bias": torch.ones(192)}), r"has unknown blocks\.12\.norm1\.bias"),
        (lambda state: state.update({"norm.bias": torch.ones(64)}), r"differs in shape at norm\.bias"),
        (lambda state: state.update({"norm.bias": torch.full((192,), float("inf"))}), r"not finite .*norm\.bias"),
        (lambda state: state.update({"module.norm.bias": state.pop("norm.bias")}), r"lacks norm\.bias"),
    ],
    ids=["missing", "unknown", "shape", "infinite", "half wrapped"],
)
def test_a_part_of_a_backbone_is_never_loaded(change, says, state, tmp_path):
    broken = dict(state)
    change(broken)
    with pytest.raises(UserError, match=rf"part\.pth: .*{says}"):
        load_checkpoint(saved(tmp_path / "part.pth", broken), model=PLAIN, image_size=32)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.to(torch.int8),  # its scale is elsewhere
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to(torch.float8_e4m3fn),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
    ],
    ids=["whole numbers", "complex", "fp8", "sparse", "meta"],
)
def test_weights_that_are_not_plain_numbers_are_refused_in_a_sentence(change, state, tmp_path):
    """Cast to fp32, whole numbers without their scale would be another model."""
    file = saved(
        tmp_path / "part.pth", dict(state) | {"blocks.0.attn.qkv.weight": change(state["blocks.0.attn.qkv.weight"])}
    )
    with pytest.raises(UserError, match=r"part\.pth: weights that are not plain .*: blocks\.0\.attn\.qkv\.weight"):
        load_checkpoint(file, model=PLAIN, image_size=32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(dtype, state, tmp_path):
    file = saved(tmp_path / "part.pth", {name: tensor.to(dtype) for name, tensor in state.items()})
    loaded = load_checkpoint(file, model=PLAIN, image_size=32).student.model.state_dict()
    assert all(torch.equal(loaded[name], tensor.to(dtype).float()) for name, tensor in state.items())


def test_malformed_files_are_refused_in_a_sentence(state, tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("weights\n")
    save_file(timm.create_model(CNN).state_dict(), tmp_path / "cnn.safetensors")
    saved(tmp_path / "hostile.pth", {"state_dict": Hostile(str(trap))})
    with (tmp_path / "pickle.pth").open("wb") as file:
        pickle.dump(Hostile(str(trap)), file)
    lightning = {"state_dict": wrap("model.", state), "hyper_parameters": {"config": Hyper()}}
    saved(tmp_path / "lightning.ckpt", lightning)
    saved(tmp_path / "numbers.pth", {"state_dict": {"a": 1}})
    for name, says in (
        ("empty.pth", "is empty"),
        ("text.pth", "not a PyTorch file of plain tensors"),
        ("cnn.safetensors", "weights of another model: lacks blocks"),
        ("hostile.pth", "mkdir"),
        ("pickle.pth", "refused"),
        ("lightning.ckpt", r"Hyper\) next to plain tensors.*torch\.save\(checkpoint\[\"state_dict\"\], FILE\)"),
        ("numbers.pth", "holds no state dict"),
    ):
        with pytest.raises(UserError, match=rf"{name}: .*{says}"):
            load_checkpoint(tmp_path / name, model=PLAIN, image_size=32)
    assert not trap.exists()


def test_a_folder_without_run_or_configuration_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no run\.json in it"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"has a config\.json and no weights next to it"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").touch()
    for text in ("{", "[]", '{"architectures": ["BertModel"]}', '{"architecture": 3}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="names no timm architecture; give its weights file with --model"):
            load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "no_such_model"}')
    with pytest.raises(UserError, match="timm has no model 'no_such_model'"):
        load_checkpoint(tmp_path)


@pytest.fixture
def folder(model, tmp_path):
    """A folder as timm writes it for a hub: other heads, mean, crop and resampling than the architecture's own."""
    path = tmp_path / "repository"
    path.mkdir()
    own = timm.create_model(PLAIN, num_heads=6, **SMALL)
    own.load_state_dict(model.state_dict())
    save_file(own.state_dict(), path / "model.safetensors")
    settings = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "crop_pct": 0.95, "interpolation": "bilinear"}
    settings |= {"input_size": [3, 32, 32], "num_classes": 10, "label_names": list("abcdefghij"), "fixed_input_size": 1}
    settings |= {"classifier": "head", "first_conv": "patch_embed.proj"}
    config = {"architecture": PLAIN, "num_classes": 10, "model_args": {"num_heads": 6}, "pretrained_cfg": settings}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_folder_that_timm_reads_says_model_pixels_and_classes(folder):
    native = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for path in (folder, folder / "model.safetensors"):
        loaded = load_checkpoint(path)
        assert (loaded.image_size, loaded.num_classes, loaded.classes) == (32, 10, tuple("abcdefghij"))
        assert (loaded.crop, loaded.interpolation) == (0.95, "bilinear")
        assert loaded.model.name == f"{PLAIN} num-heads=6"
        assert loaded.checkpoint.run == f"model@{sha256_file(folder / 'model.safetensors')[:8]}"
        views = torch.rand(2, 3, 32, 32)
        mean, std = (torch.tensor(native.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            assert torch.equal(loaded.student.predict(views), native((views - mean) / std))
    assert load_checkpoint(folder, image_size=48).student.model.pos_embed.shape[1] == 10


def test_arguments_that_weights_do_not_tell_make_another_checkpoint(folder):
    """Three heads or six: the same file, and other logits."""
    six = load_checkpoint(folder).weights_identity()
    three = load_checkpoint(folder / "model.safetensors", model=PLAIN, image_size=32).weights_identity()
    assert six["arguments"] == {"num_heads": 6} and "arguments" not in three


def test_one_file_under_two_means_or_sizes_is_two_checkpoints(folder):
    """By its config.json, or by the name of its architecture alone."""
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {}
    (folder / "config.json").write_text(json.dumps(config))
    described = load_checkpoint(folder)
    named = load_checkpoint(folder / "model.safetensors", model=PLAIN, image_size=32)
    assert described.differs == {"mean": pytest.approx([0.5, 0.4, 0.3]), "std": pytest.approx([0.2, 0.2, 0.1])} | {
        "image_size": 32
    }
    assert named.differs == {} and named.weights_identity() != described.weights_identity()


@pytest.mark.parametrize("setting", [{"mean": "grey"}, {"std": [0.5]}, {"crop_pct": "all"}])
def test_pixels_that_cannot_be_prepared_are_told(folder, setting):
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= setting
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json has no usable mean, std, input_size or crop_pct"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [PLAIN, DISTILLED])
def test_a_size_that_the_patches_do_not_fit_is_one_sentence(name, tmp_path):
    save_file(timm.create_model(name).state_dict(), tmp_path / "deit.safetensors")
    said = r"deit\.safetensors: image_size 100 is not a multiple of the patch size 16; take 96 or 112"
    with pytest.raises(UserError, match=said):
        load_checkpoint(tmp_path / "deit.safetensors", model=name, image_size=100)


def test_a_size_that_another_model_does_not_take_is_one_sentence(tmp_path):
    """Its attention has a table for one size alone."""
    save_file(timm.create_model("levit_128s").state_dict(), tmp_path / "levit.safetensors")
    with pytest.raises(UserError, match=r"levit\.safetensors: this model does not run at 100 px"):
        load_checkpoint(tmp_path / "levit.safetensors", model="levit_128s", image_size=100)


# -- timm's pretrained weights ----------------------------------------------------------------------------------------


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    """A cache of Hugging Face that holds one repository, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    inside = tmp_path / "cache" / "models--anna--deit"
    (inside / "refs").mkdir(parents=True)
    (inside / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, inside / "snapshots" / ("0" * 40))
    return inside


def test_a_repository_is_loaded_as_timm_does_and_named_by_its_file(cache, folder):
    loaded, same = load_checkpoint(Path("hf-hub:anna/deit")), load_checkpoint(folder)
    assert loaded.checkpoint.sha256 == sha256_file(folder / "model.safetensors")
    assert loaded.checkpoint.run == f"anna/deit@{loaded.checkpoint.sha256[:8]}"
    assert (loaded.classes, loaded.crop, loaded.image_size) == (same.classes, same.crop, same.image_size)
    assert loaded.weights_identity() == same.weights_identity()
    views = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.student.predict(views), same.student.predict(views))


def test_pretrained_weights_whose_file_is_not_found_are_named_by_their_tensors(monkeypatch):
    built = timm.create_model(PLAIN)
    monkeypatch.setattr(hub.timm, "create_model", lambda name, pretrained: built)
    loaded = load_checkpoint(Path(f"timm:{PLAIN}"))
    assert loaded.checkpoint.sha256 == hash_state(built.state_dict())
    assert loaded.checkpoint.run == f"{PLAIN}@{loaded.checkpoint.sha256[:8]}"
    assert (loaded.num_classes, loaded.crop) == (1000, 0.9)
    changed = built.state_dict()
    changed["norm.bias"] = changed["norm.bias"] + 1
    assert hash_state(changed) != loaded.checkpoint.sha256
    built.norm.bias.data[0] = float("nan")
    with pytest.raises(UserError, match=r"not finite .*norm\.bias"):
        load_checkpoint(Path(f"timm:{PLAIN}"))


@pytest.mark.parametrize("name", [f"timm:{PLAIN}", "hf-hub:anna/none"])
def test_a_download_that_fails_says_what_to_do(name, cache):
    with pytest.raises(UserError, match=r"could not be had.*HF_HUB_OFFLINE.*HTTPS_PROXY.*--checkpoint FILE --model"):
        load_checkpoint(Path(name))


def test_what_is_not_pretrained_is_refused():
    for name, says in (("timm:no_such", "timm has no model"), ("timm:botnet50ts_256", "timm has no")):
        with pytest.raises(UserError, match=says):
            load_checkpoint(Path(name))
    with pytest.raises(UserError, match="--model is for weights files"):
        load_checkpoint(Path("timm:resnet18"), model=PLAIN)
    with pytest.raises(UserError, match="no averaged weights"):
        load_checkpoint(Path("timm:resnet18"), weights="ema")


def test_names_are_read_as_they_are(state, tmp_path):
    save_file(wrap("module.", state), tmp_path / "a.safetensors")
    assert all(name.startswith("module.") for name in read_state(tmp_path / "a.safetensors"))
